//! One anvil with the contracts, two operators and three payers, and a keeper factory.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alloy::contract::{CallBuilder, CallDecoder};
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::{Provider, RootProvider};
use alloy::rpc::client::RpcClient;
use alloy::rpc::types::TransactionRequest;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolValue;
use keeper::chain::Chain;
use keeper::config::Config;
use keeper::feed::Meter;
use keeper::journal::Journal;
use keeper::reconcile::{Keeper, Moved, Step};
use keeper::submit::Sender;
use serde_json::{Value, json};
use wire::contracts::{Credits as Vault, Registry, Settlement};
use wire::deployment::Deployment;
use wire::receipt::ServiceReceipt;
use wire::settlement::SignedReceipt;
use wire::{AccountId, Credits, ModelRate, OperatorId, WEI_PER_CREDIT, typed};

use crate::meter::ScriptedMeter;
use crate::proxy::Proxy;

pub const FEE_BPS: u16 = 1_000;
pub const WINDOW_S: u64 = 60;
pub const EXPOSURE: u64 = 5_000_000_000;
const DEPOSIT: u64 = 100_000_000_000;

alloy::sol! {
    #[sol(rpc)]
    interface IERC20 {
        function approve(address spender, uint256 amount) external returns (bool);
        function balanceOf(address owner) external view returns (uint256);
    }
}

pub struct Network {
    pub provider: RootProvider,
    pub deployment: Deployment,
    pub meter: ScriptedMeter,
    pub proxy: Proxy,
    pub folder: tempfile::TempDir,
    pub node: PrivateKeySigner,
    pub payouts: Vec<Address>,
    deployer: Address,
    receipts: AtomicU64,
    anvil: Child,
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.anvil.kill();
        let _ = self.anvil.wait();
    }
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

impl Network {
    pub async fn start() -> Self {
        daemon::install_tls();
        let (anvil, url) = spawn_anvil();
        let client = reqwest::Client::builder().build().unwrap();
        let http = alloy::transports::http::Http::with_client(client, url.clone());
        let provider = RootProvider::new(RpcClient::new(http, true));
        let dev = provider.get_accounts().await.unwrap();
        let settler = PrivateKeySigner::random();
        let deployment = deploy(&provider, dev[0], settler.address()).await;
        let proxy = Proxy::start(url.to_string()).await;
        let meter = ScriptedMeter::start(settler, deployment.clone(), provider.clone()).await;
        let mut network = Self {
            provider,
            deployment,
            meter,
            proxy,
            folder: tempfile::tempdir().unwrap(),
            node: PrivateKeySigner::random(),
            payouts: vec![],
            deployer: dev[0],
            receipts: AtomicU64::new(0),
            anvil,
        };
        for owner in &dev[1..3] {
            network.register_operator(*owner).await;
        }
        for _ in 0..3 {
            network.open_account().await;
        }
        network
    }

    async fn register_operator(&mut self, owner: Address) {
        let registry = Registry::new(self.deployment.registry, &self.provider);
        let payout = PrivateKeySigner::random().address();
        send(registry.register(payout, B256::ZERO).from(owner)).await;
        self.payouts.push(payout);
        let operator = registry.operatorOf(owner).call().await.unwrap();
        let key = if operator == 1 { self.node.clone() } else { node_key(OperatorId(operator)) };
        let consent = typed::NodeKey { operator, key: key.address() };
        let proof = typed::sign(&consent, &self.deployment.registry_domain(), &key).unwrap();
        send(registry.addNodeKey(key.address(), proof.to_vec().into()).from(owner)).await;
    }

    async fn open_account(&self) {
        let (payer, vault) = (PrivateKeySigner::random(), Vault::new(self.deployment.credits, &self.provider));
        send(vault.depositFor(payer.address(), DEPOSIT).from(self.deployer)).await;
        let valid_until = self.now().await + 30 * 86_400;
        let u40 = wire::receipt::seconds_u40;
        let signed = typed::SpendAuthorization {
            owner: payer.address(),
            cap: DEPOSIT / 2,
            exposure: alloy::primitives::aliases::U48::from(EXPOSURE),
            validUntil: u40(valid_until),
            challenge: B256::ZERO,
            nonce: 0,
            signDeadline: u40(valid_until),
        };
        let signature = typed::sign(&signed, &self.deployment.credits_domain(), &payer).unwrap();
        let authorization = Vault::SpendAuthorization {
            owner: signed.owner,
            cap: signed.cap,
            exposure: signed.exposure,
            validUntil: signed.validUntil,
            challenge: signed.challenge,
            nonce: signed.nonce,
            signDeadline: signed.signDeadline,
        };
        send(vault.authorize(authorization, signature.to_vec().into()).from(self.deployer)).await;
    }

    /// A receipt of operator 1's or 2's node for an account, of so many credits.
    pub async fn receipt(&self, account: u32, operator: u32, credits: u32) -> SignedReceipt {
        let now = self.now().await;
        let index = self.receipts.fetch_add(1, Ordering::SeqCst);
        let receipt = ServiceReceipt {
            request_id: wire::keccak256(index.to_be_bytes()),
            account: AccountId(account),
            operator: OperatorId(operator),
            model_root: B256::repeat_byte(1),
            engine: B256::repeat_byte(2),
            prompt_tokens: credits - 1,
            completion_tokens: 1,
            model_rate: ModelRate(1_000_000),
            amount: Credits::new(credits.into()).unwrap(),
            prompt_hash: B256::repeat_byte(3),
            completion_hash: B256::repeat_byte(4),
            params_hash: B256::repeat_byte(5),
            proof_root: B256::repeat_byte(6),
            started_at: now,
            served_at: now,
        };
        self.sign(receipt, operator)
    }

    pub fn sign(&self, receipt: ServiceReceipt, operator: u32) -> SignedReceipt {
        let key = if operator == 1 { self.node.clone() } else { node_key(OperatorId(operator)) };
        let signature = typed::sign(&receipt.typed(), &self.deployment.settlement_domain(), &key).unwrap();
        SignedReceipt { receipt, signature: signature.to_vec().into(), node: key.address() }
    }

    /// Receipts of both operators for all three accounts: 6 of 1,000 + i credits.
    pub async fn serve_six(&self) -> u64 {
        let mut sum = 0;
        for index in 0..6u32 {
            let receipt = self.receipt(index % 3 + 1, index % 2 + 1, 1_000 + index).await;
            sum += receipt.receipt.amount.get();
            self.meter.push(receipt);
        }
        sum
    }

    pub fn config(&self, journal: &str) -> Config {
        let text = format!(
            "meter_url = \"{}\"\nkeystore = \"k\"\npassword_file = \"p\"\njournal = \"{journal}.sqlite\"\nperiod_ms = 100\n
             [chain]\nrpc_url = \"{}\"\ndeployment = \"deployment.json\"\nconfirmations = 1\n
             [batch]\nmin_credits = 1\nadopt_after_s = 0\n[gas]\nstuck_after_s = 20\n",
            self.meter.url, self.proxy.url
        );
        let path = self.folder.path().join(format!("{journal}.toml"));
        std::fs::write(&path, text).unwrap();
        std::fs::write(self.folder.path().join("deployment.json"), serde_json::to_vec(&self.deployment).unwrap()).unwrap();
        Config::read(&path).unwrap()
    }

    pub async fn funded_key(&self) -> PrivateKeySigner {
        let signer = PrivateKeySigner::random();
        self.fund(signer.address()).await;
        signer
    }

    pub async fn fund(&self, address: Address) {
        self.raw("anvil_setBalance", json!([address, "0x8ac7230489e80000"])).await;
    }

    /// A keeper as after a start of the process: nothing in memory, the journal opened again.
    pub async fn keeper(&self, config: Config, signer: &PrivateKeySigner) -> Keeper {
        let journal = Journal::open(&config.journal, &self.deployment).await.unwrap();
        self.meter.admit(signer.address());
        keeper::open(config, signer.clone(), journal).await.unwrap()
    }

    /// As [`Network::keeper`], with the journal to look into.
    pub async fn keeper_and_journal(&self, config: Config, signer: &PrivateKeySigner) -> (Keeper, Journal) {
        let journal = Journal::open(&config.journal, &self.deployment).await.unwrap();
        self.meter.admit(signer.address());
        let timeout = Duration::from_secs(10);
        let chain = Chain::new(config.chain.rpc_url.clone(), timeout, self.deployment.clone()).unwrap();
        let meter = Meter::new(config.meter_url.clone(), timeout, signer.clone(), self.deployment.settlement_domain()).unwrap();
        let sender = Sender::new(chain.clone(), journal.clone(), signer.clone(), config.gas);
        (Keeper::new(config, chain, meter, journal.clone(), sender), journal)
    }

    pub async fn now(&self) -> u64 {
        self.provider.get_block_by_number(Default::default()).await.unwrap().unwrap().header.timestamp
    }

    pub async fn raw(&self, method: &'static str, params: Value) -> Value {
        self.provider.raw_request(method.into(), params).await.unwrap()
    }

    pub async fn mine(&self, blocks: u64) {
        self.raw("anvil_mine", json!([format!("0x{blocks:x}")])).await;
    }

    pub async fn advance(&self, seconds: u64) {
        self.raw("evm_increaseTime", json!([seconds])).await;
        self.mine(1).await;
    }

    pub async fn automine(&self, on: bool) {
        self.raw("evm_setAutomine", json!([on])).await;
    }

    /// Waits until anvil has mined all that it can mine by itself.
    pub async fn quiet(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.raw("txpool_status", json!([])).await["pending"] != json!("0x0") {
            assert!(Instant::now() < deadline, "transactions stay in the pool");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn last_seq(&self) -> u64 {
        Settlement::new(self.deployment.settlement, &self.provider).lastSeq().call().await.unwrap()
    }

    pub async fn settled(&self, account: u32) -> u64 {
        let views = Vault::new(self.deployment.credits, &self.provider).accounts(vec![account]).call().await.unwrap();
        views[0].settled
    }

    /// Debited from payers, credited to operators, kept as fee.
    pub async fn totals(&self) -> (u64, u64, u64) {
        let vault = Vault::new(self.deployment.credits, &self.provider);
        let debited = vault.accounts(vec![1, 2, 3]).call().await.unwrap().iter().map(|view| view.settled).sum();
        let credited = vault.operators(vec![1, 2]).call().await.unwrap().iter().map(|view| view.claimable).sum();
        (debited, credited, vault.fees().call().await.unwrap())
    }

    /// Every account was debited exactly its receipts, operators and fee got exactly that, in `batches` settlements.
    pub async fn assert_paid_exactly_once(&self, batches: u64) {
        let receipts = self.meter.receipts();
        for account in 1..=3 {
            let owed: u64 = receipts.iter().filter(|r| r.receipt.account == AccountId(account)).map(|r| r.receipt.amount.get()).sum();
            assert_eq!(self.settled(account).await, owed, "account {account}");
        }
        let (debited, credited, fees) = self.totals().await;
        assert_eq!(debited, credited + fees);
        assert_eq!(self.last_seq().await, batches);
        let settlement = Settlement::new(self.deployment.settlement, &self.provider);
        let events = settlement.Settled_filter().from_block(0).query().await.unwrap();
        let seqs: Vec<u64> = events.iter().map(|(event, _)| event.seq).collect();
        assert_eq!(seqs, (1..=batches).collect::<Vec<_>>());
    }

    pub async fn balance_credits(&self, owner: Address) -> u64 {
        let wei = IERC20::new(self.deployment.prlx, &self.provider).balanceOf(owner).call().await.unwrap();
        (wei / U256::from(WEI_PER_CREDIT)).to()
    }

    pub async fn transaction_count(&self, address: Address) -> u64 {
        self.provider.get_transaction_count(address).await.unwrap()
    }
}

/// Rounds until `wanted` was done, at most 40.
pub async fn rounds_until(network: &Network, keeper: &Keeper, wanted: Moved) -> Vec<Step> {
    let mut all = Vec::new();
    for _ in 0..40 {
        all.extend(keeper.round(network.now().await).await.unwrap());
        if all.iter().any(|step| matches!(step, Step::Moved { what, .. } if *what == wanted)) {
            return all;
        }
    }
    panic!("{wanted:?} never came: {all:#?}");
}

/// Single steps until `wanted` was done, at most 40.
pub async fn steps_until(network: &Network, keeper: &Keeper, wanted: Moved) {
    let mut all = Vec::new();
    for _ in 0..40 {
        all.push(keeper.step(network.now().await).await.unwrap());
        if matches!(all.last(), Some(Step::Moved { what, .. }) if *what == wanted) {
            return;
        }
    }
    panic!("{wanted:?} never came: {all:#?}");
}

fn node_key(operator: OperatorId) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&wire::keccak256(operator.0.to_be_bytes())).unwrap()
}

fn spawn_anvil() -> (Child, reqwest::Url) {
    let packages = root().join("node_modules/@foundry-rs");
    let folders = std::fs::read_dir(&packages).expect("run `npm ci --ignore-scripts` in the repository's root");
    let binary =
        folders.map(|folder| folder.unwrap().path().join("bin/anvil")).find(|path| path.exists() && !path.ends_with("anvil/bin/anvil"));
    let binary = binary.expect("no platform package of @foundry-rs/anvil is installed");
    let mut anvil = Command::new(binary)
        .args(["--port", "0", "--chain-id", "31337", "--order", "fees"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(anvil.stdout.take().unwrap()).lines();
    let address = lines.by_ref().map(Result::unwrap).find_map(|line| line.strip_prefix("Listening on ").map(str::to_owned)).unwrap();
    // Anvil must not block on a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    (anvil, format!("http://{address}").parse().unwrap())
}

async fn deploy(provider: &RootProvider, deployer: Address, settler: Address) -> Deployment {
    let supply = U256::from(DEPOSIT) * U256::from(WEI_PER_CREDIT) * U256::from(1_000);
    let deploy_block = provider.get_block_number().await.unwrap();
    let prlx = create(provider, deployer, "PRLX", (vec![deployer], vec![supply]).abi_encode_params()).await;
    let (exit_delay, window) = (U256::from(3_600), U256::from(WINDOW_S));
    let credits = create(provider, deployer, "ParalleliXAICredits", (prlx, deployer, exit_delay, window).abi_encode_params()).await;
    let arguments = (credits, deployer, deployer, U256::from(1_000_000)).abi_encode_params();
    let registry = create(provider, deployer, "OperatorRegistry", arguments).await;
    let arguments = (credits, registry, deployer, settler, deployer, U256::from(FEE_BPS)).abi_encode_params();
    let settlement = create(provider, deployer, "ParalleliXSettlement", arguments).await;
    send(Vault::new(credits, provider).initialize(settlement, registry, deployer).from(deployer)).await;
    send(IERC20::new(prlx, provider).approve(credits, U256::MAX).from(deployer)).await;
    Deployment {
        chain_id: 31_337,
        deploy_block,
        prlx,
        credits,
        settlement,
        registry,
        exit_delay: 3_600,
        velocity_window: WINDOW_S,
        fee_bps: FEE_BPS,
        settler,
    }
}

async fn create(provider: &RootProvider, deployer: Address, name: &str, arguments: Vec<u8>) -> Address {
    let path = root().join(format!("out/{name}.sol/{name}.json"));
    let artifact = std::fs::read(&path).unwrap_or_else(|_| panic!("{} is missing: run `forge build` first", path.display()));
    let artifact: Value = serde_json::from_slice(&artifact).unwrap();
    let mut code: Vec<u8> = artifact["bytecode"]["object"].as_str().unwrap().parse::<Bytes>().unwrap().to_vec();
    code.extend(arguments);
    let mut request = TransactionRequest { from: Some(deployer), ..TransactionRequest::default() };
    request.to = Some(alloy::primitives::TxKind::Create);
    request.input = alloy::primitives::Bytes::from(code).into();
    let hash = *provider.send_transaction(request).await.unwrap().tx_hash();
    mined(provider, hash).await.contract_address.unwrap()
}

pub async fn send<P: Provider, D: CallDecoder>(call: CallBuilder<P, D>) {
    let pending = call.send().await.unwrap();
    let (provider, hash) = (pending.provider().clone(), *pending.tx_hash());
    mined(&provider, hash).await;
}

/// Anvil mines a moment after it answers.
async fn mined(provider: &RootProvider, hash: B256) -> alloy::rpc::types::TransactionReceipt {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(receipt) = provider.get_transaction_receipt(hash).await.unwrap() {
            assert!(receipt.status(), "{hash} reverted");
            return receipt;
        }
        assert!(Instant::now() < deadline, "{hash} was not mined");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
