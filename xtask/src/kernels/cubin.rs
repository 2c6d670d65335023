//! What a cubin says of its kernels. It is an ELF file; `.nv.info` has records of four bytes (form, attribute, length) and a value.

use anyhow::{Context, Result, ensure};

/// Form of a record whose value has the length that it states.
const FORM_SIZED: u8 = 0x04;
/// Bytes of local memory that a function takes.
const FRAME_SIZE: u8 = 0x11;
const REGISTER_COUNT: u8 = 0x2f;

/// One function of a cubin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// As in the source.
    pub(super) name: String,
    /// Local memory for spilled registers or indexed arrays, bytes a thread.
    pub(super) frame_bytes: u32,
    /// A thread's.
    pub(super) registers: u32,
}

struct Section {
    name: usize,
    link: usize,
    offset: usize,
    bytes: usize,
}

/// Every function that an `extern "C"` entry of the source became.
pub(super) fn functions(elf: &[u8]) -> Result<Vec<Function>> {
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
    let start = u64_at(elf, 0x28)?;
    let (count, names) = (u16_at(elf, 0x3c)?, u16_at(elf, 0x3e)?);
    let sections = (0..count)
        .map(|index| {
            let at = start + index * 64;
            let (name, link) = (u32_at(elf, at)? as usize, u32_at(elf, at + 40)? as usize);
            Ok(Section { name, link, offset: u64_at(elf, at + 24)?, bytes: u64_at(elf, at + 32)? })
        })
        .collect::<Result<Vec<_>>>()?;
    let names = sections.get(names).context("no section names")?;
    let find =
        |wanted: &str| sections.iter().find(|s| text_at(elf, names.offset + s.name) == wanted).with_context(|| format!("no {wanted}"));
    let (info, symbols) = (find(".nv.info")?, find(".symtab")?);
    let strings = sections.get(symbols.link).context("the symbols have no names")?;

    let mut found: Vec<Function> = Vec::new();
    let mut at = info.offset;
    while at + 4 <= info.offset + info.bytes {
        let (form, attribute, length) = (elf[at], elf[at + 1], u16_at(elf, at + 2)?);
        at += 4;
        if form != FORM_SIZED {
            continue;
        }
        if [FRAME_SIZE, REGISTER_COUNT].contains(&attribute) {
            let (symbol, value) = (u32_at(elf, at)? as usize, u32_at(elf, at + 4)?);
            let name = text_at(elf, strings.offset + u32_at(elf, symbols.offset + symbol * 24)? as usize);
            let function = match found.iter_mut().find(|function| function.name == name) {
                Some(function) => function,
                None => {
                    found.push(Function { name, frame_bytes: 0, registers: 0 });
                    let last = found.len() - 1;
                    &mut found[last]
                }
            };
            match attribute {
                FRAME_SIZE => function.frame_bytes = value,
                _ => function.registers = value,
            }
        }
        at += length;
    }
    // The compiler's own, such as the rare path of a division.
    found.retain(|function| !function.name.starts_with('$'));
    Ok(found)
}

fn slice<const N: usize>(elf: &[u8], at: usize) -> Result<[u8; N]> {
    elf.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).with_context(|| format!("the file ends before byte {at}"))
}

fn u16_at(elf: &[u8], at: usize) -> Result<usize> {
    Ok(u16::from_le_bytes(slice(elf, at)?).into())
}

fn u32_at(elf: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(slice(elf, at)?))
}

fn u64_at(elf: &[u8], at: usize) -> Result<usize> {
    Ok(u64::from_le_bytes(slice(elf, at)?) as usize)
}

fn text_at(elf: &[u8], at: usize) -> String {
    let bytes = elf.get(at..).unwrap_or_default();
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with the two sections, made by hand: one function with 16 bytes of local memory and 40 registers.
    fn elf() -> Vec<u8> {
        let mut file = vec![0u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut add = |bytes: &[u8]| {
            let at = file.len();
            file.extend_from_slice(bytes);
            (at, bytes.len())
        };
        let names = add(b"\0.nv.info\0.symtab\0");
        let strings = add(b"\0spilled\0");
        let symbols = add(&[[0u8; 24], {
            let mut s = [0u8; 24];
            s[0] = 1;
            s
        }]
        .concat());
        let record = |attribute: u8, value: u8| [4, attribute, 8, 0, 1, 0, 0, 0, value, 0, 0, 0];
        let info = add(&[record(FRAME_SIZE, 16), record(REGISTER_COUNT, 40)].concat());
        let table = file.len() as u64;
        for (name, link, (offset, bytes)) in [(0u32, 0u32, names), (1, 0, info), (10, 3, symbols), (0, 0, strings)] {
            let mut header = [0u8; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(bytes as u64).to_le_bytes());
            header[40..44].copy_from_slice(&link.to_le_bytes());
            file.extend_from_slice(&header);
        }
        file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        file[0x3c] = 4;
        file
    }

    #[test]
    fn local_memory_and_registers_are_read() {
        let expected = Function { name: "spilled".into(), frame_bytes: 16, registers: 40 };
        assert_eq!(functions(&elf()).unwrap(), [expected]);
        assert!(functions(b"text").unwrap_err().to_string().contains("ELF"));
        assert!(functions(&elf()[..100]).is_err());
    }
}
