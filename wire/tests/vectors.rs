//! The golden vectors of `test/vectors`, made by viem and read by forge as well: the digests, signatures, trees, rows and
//! costs of this crate are those of two other implementations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Eip712Domain, SolStruct};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use wire::rows::{Group, Row};
use wire::{AccountId, Address, B256, Bytes, Credits, ModelRate, OperatorId, U256, keccak256, merkle, message_cost_up, rows, typed};

#[test]
fn typed_digests_and_signatures_are_those_of_viem() {
    let file: Eip712File = read("eip712.json");
    let mut seen = 0;
    for vector in &file.vectors {
        let field = Fields(&vector.fields);
        match vector.primary_type.as_str() {
            "SpendAuthorization" => vector.check(&typed::SpendAuthorization {
                owner: field.address("owner"),
                cap: field.number("cap"),
                exposure: field.uint("exposure").to(),
                validUntil: field.uint("validUntil").to(),
                challenge: field.hash("challenge"),
                nonce: field.number("nonce") as u32,
                signDeadline: field.uint("signDeadline").to(),
            }),
            "Revocation" => vector.check(&typed::Revocation {
                owner: field.address("owner"),
                nonce: field.number("nonce") as u32,
                signDeadline: field.uint("signDeadline").to(),
            }),
            "SignIn" => vector.check(&typed::SignIn {
                owner: field.address("owner"),
                challenge: field.hash("challenge"),
                signDeadline: field.uint("signDeadline").to(),
            }),
            "ClosureClearance" => vector.check(&typed::ClosureClearance {
                account: field.number("account") as u32,
                settled: field.number("settled"),
                authNonce: field.number("authNonce") as u32,
                deadline: field.uint("deadline").to(),
            }),
            "SettlementBatch" => vector.check(&typed::SettlementBatch {
                seq: field.number("seq"),
                receiptsRoot: field.hash("receiptsRoot"),
                rowsHash: field.hash("rowsHash"),
                deadline: field.uint("deadline").to(),
            }),
            "ServiceReceipt" => vector.check(&receipt(&field).typed()),
            "NodeHello" => vector.check(&typed::NodeHello {
                challenge: field.hash("challenge"),
                operator: field.number("operator") as u32,
                node: field.address("node"),
                modelsHash: field.hash("modelsHash"),
            }),
            "KeeperAccess" => {
                vector.check(&typed::KeeperAccess { keeper: field.address("keeper"), validUntil: field.uint("validUntil").to() });
            }
            "NodeKey" => vector.check(&typed::NodeKey { operator: field.number("operator") as u32, key: field.address("key") }),
            other => panic!("{other} is in the vectors and not in this test"),
        }
        seen += 1;
    }
    assert!(seen >= 9, "every signed type has a vector, {seen} were seen");
}

#[test]
fn trees_and_proofs_are_those_of_viem() {
    let file: MerkleFile = read("merkle.json");
    for tree in &file.trees {
        let leaves: Vec<B256> = tree.digests.iter().map(|digest| merkle::receipt_leaf(*digest)).collect();
        assert_eq!(leaves, tree.leaves);
        assert_eq!(merkle::root(&leaves), Some(tree.root));
        for (index, proof) in tree.proofs.iter().enumerate() {
            assert_eq!(merkle::proof(&leaves, index).as_ref(), Some(proof), "leaf {index} of {}", leaves.len());
            assert!(merkle::verify(tree.root, leaves[index], proof));
        }
    }
    assert!(file.trees.len() >= 5);
}

#[test]
fn packed_rows_are_those_of_viem() {
    let file: RowsFile = read("rows.json");
    for batch in &file.batches {
        let groups: Vec<Group> = batch.groups.iter().map(VectorGroup::group).collect();
        let encoded = rows::encode(&groups).unwrap();
        assert_eq!(Bytes::from(encoded.clone()), batch.encoded);
        assert_eq!(rows::hash(&encoded), batch.rows_hash);
        assert_eq!(rows::decode(&encoded).unwrap(), groups);
    }
    assert!(file.batches.len() >= 3);
    for malformed in &file.malformed {
        assert!(rows::decode(&malformed.encoded).is_err(), "{}", malformed.reason);
    }
    assert!(file.malformed.len() >= 5);
}

#[test]
fn costs_and_fees_are_those_of_big_integers() {
    let file: CostFile = read("cost.json");
    for cost in &file.costs {
        let tokens = cost.prompt_tokens + cost.completion_tokens;
        let charged = message_cost_up(ModelRate(cost.model_rate.parse().unwrap()), tokens);
        if cost.fits {
            assert_eq!(charged, Credits::new(cost.amount.parse().unwrap()), "{cost:?}");
        } else {
            assert!(charged.is_err(), "{cost:?}");
        }
    }
    assert!(file.costs.len() >= 10);
    for fee in &file.fees {
        let total = Credits::new(fee.total.parse().unwrap()).unwrap();
        let taken = wire::fee_down(total, fee.fee_bps);
        assert_eq!(taken.get().to_string(), fee.fee, "{fee:?}");
        assert_eq!(total.checked_sub(taken).unwrap().get().to_string(), fee.operator_share, "{fee:?}");
    }
    assert!(file.fees.len() >= 5);
}

fn receipt(field: &Fields) -> wire::receipt::ServiceReceipt {
    wire::receipt::ServiceReceipt {
        request_id: field.hash("requestId"),
        account: AccountId(field.number("account") as u32),
        operator: OperatorId(field.number("operator") as u32),
        model_root: field.hash("modelRoot"),
        engine: field.hash("engine"),
        prompt_tokens: field.number("promptTokens") as u32,
        completion_tokens: field.number("completionTokens") as u32,
        model_rate: ModelRate(field.number("modelRate")),
        amount: Credits::new(field.number("amount")).unwrap(),
        prompt_hash: field.hash("promptHash"),
        completion_hash: field.hash("completionHash"),
        params_hash: field.hash("paramsHash"),
        proof_root: field.hash("proofRoot"),
        started_at: field.number("startedAt"),
        served_at: field.number("servedAt"),
    }
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = format!("{}/../test/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(&path).expect(&path)).expect(&path)
}

#[derive(Deserialize)]
struct Eip712File {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vector {
    primary_type: String,
    #[serde(rename = "type")]
    type_text: String,
    type_hash: B256,
    domain: Domain,
    domain_separator: B256,
    fields: Map<String, Value>,
    struct_hash: B256,
    digest: B256,
    signer_key: B256,
    signer: Address,
    signature: Bytes,
}

impl Vector {
    fn check<T: SolStruct>(&self, value: &T) {
        let domain = self.domain.domain();
        let signer = PrivateKeySigner::from_bytes(&self.signer_key).unwrap();
        assert_eq!(T::eip712_encode_type(), self.type_text);
        assert_eq!(keccak256(&self.type_text), self.type_hash);
        assert_eq!(domain.separator(), self.domain_separator, "{}", self.primary_type);
        assert_eq!(value.eip712_hash_struct(), self.struct_hash, "{}", self.primary_type);
        assert_eq!(typed::digest(value, &domain), self.digest, "{}", self.primary_type);
        assert_eq!(Bytes::from(typed::sign(value, &domain, &signer).unwrap()), self.signature, "{}", self.primary_type);
        assert_eq!(typed::recover(value, &domain, &self.signature).unwrap(), self.signer);
        self.every_flipped_byte_is_somebody_else(value, &domain);
    }

    fn every_flipped_byte_is_somebody_else<T: SolStruct>(&self, value: &T, domain: &Eip712Domain) {
        for index in 0..self.signature.len() {
            let mut flipped = self.signature.to_vec();
            flipped[index] ^= 1;
            assert_ne!(typed::recover(value, domain, &flipped).ok(), Some(self.signer), "byte {index}");
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Domain {
    name: String,
    version: String,
    chain_id: u64,
    verifying_contract: Address,
}

impl Domain {
    fn domain(&self) -> Eip712Domain {
        assert_eq!(self.version, "1");
        match self.name.as_str() {
            "ParalleliXAICredits" => typed::credits_domain(self.chain_id, self.verifying_contract),
            "ParalleliXSettlement" => typed::settlement_domain(self.chain_id, self.verifying_contract),
            "OperatorRegistry" => typed::registry_domain(self.chain_id, self.verifying_contract),
            other => panic!("no domain is called {other}"),
        }
    }
}

struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn text(&self, name: &str) -> String {
        let value = self.0.get(name).unwrap_or_else(|| panic!("no field {name}"));
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    }

    fn uint(&self, name: &str) -> U256 {
        self.text(name).parse().unwrap()
    }

    fn number(&self, name: &str) -> u64 {
        self.uint(name).to()
    }

    fn hash(&self, name: &str) -> B256 {
        self.text(name).parse().unwrap()
    }

    fn address(&self, name: &str) -> Address {
        self.text(name).parse().unwrap()
    }
}

#[derive(Deserialize)]
struct MerkleFile {
    trees: Vec<Tree>,
}

#[derive(Deserialize)]
struct Tree {
    digests: Vec<B256>,
    leaves: Vec<B256>,
    root: B256,
    proofs: Vec<Vec<B256>>,
}

#[derive(Deserialize)]
struct RowsFile {
    batches: Vec<Batch>,
    malformed: Vec<Malformed>,
}

#[derive(Deserialize)]
struct Malformed {
    reason: String,
    encoded: Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Batch {
    groups: Vec<VectorGroup>,
    encoded: Bytes,
    rows_hash: B256,
}

#[derive(Deserialize)]
struct VectorGroup {
    operator: u32,
    rows: Vec<VectorRow>,
}

#[derive(Deserialize)]
struct VectorRow {
    account: u32,
    cumulative: String,
}

impl VectorGroup {
    fn group(&self) -> Group {
        let row = |row: &VectorRow| Row { account: AccountId(row.account), cumulative: row.cumulative.parse().unwrap() };
        Group { operator: OperatorId(self.operator), rows: self.rows.iter().map(row).collect() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CostFile {
    costs: Vec<Cost>,
    fees: Vec<Fee>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fee {
    total: String,
    fee_bps: u16,
    fee: String,
    operator_share: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    model_rate: String,
    prompt_tokens: u64,
    completion_tokens: u64,
    amount: String,
    fits: bool,
}
