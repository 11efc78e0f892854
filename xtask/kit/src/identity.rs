//! What an image and its symbols know each other by.
//!
//! The linker makes it from the symbols, and in these are paths of the machine and names of temporary files. Here it is made from the
//! image, so that the same sources are the same image wherever and whenever they are built.

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

/// Where the offset of the PE header stands.
const HEADER: usize = 0x3C;
/// From the PE header: the time, the checksum, and the directory of debug data.
const TIME: usize = 8;
const CHECKSUM: usize = 88;
const DEBUG_DIRECTORY: usize = 24 + 112 + 6 * 8;
/// The size of an entry of that directory, and `IMAGE_DEBUG_TYPE_CODEVIEW`.
const DEBUG_ENTRY: usize = 28;
const CODEVIEW: u32 = 2;
/// A GUID's size, and how the record that has it begins.
const GUID: usize = 16;
const RECORD: &[u8] = b"RSDS";

/// Gives `image` and its symbols `pdb` an identity that depends on nothing but what else is in the image.
///
/// # Errors
///
/// One of them is not as the linker writes it, or they do not belong together.
pub fn settle(image: &mut [u8], pdb: &mut [u8]) -> Result<()> {
    let header = number(image, HEADER)?;
    let (guid, mut times) = debug_data(image, header)?;
    times.push(header + TIME);
    let old = field::<GUID>(image, guid)?;
    for time in &times {
        put(image, *time, &[0; 4])?;
    }
    put(image, guid, &[0; GUID])?;
    put(image, header + CHECKSUM, &[0; 4])?;
    let hash: [u8; 32] = Sha256::digest(&*image).into();
    let (new, rest) = hash.split_at(GUID);
    for time in times {
        put(image, time, &rest[..4])?;
    }
    put(image, guid, new)?;
    let checksum = checksum(image);
    put(image, header + CHECKSUM, &checksum.to_le_bytes())?;
    let place = place_in_symbols(pdb)?;
    let known = field::<GUID>(pdb, place)?;
    ensure!(known == old || known == new, "the symbols are those of another image");
    put(pdb, place, new)
}

/// Where the image has the GUID of its symbols, and the times of its debug data.
fn debug_data(image: &[u8], header: usize) -> Result<(usize, Vec<usize>)> {
    let address = number(image, header + DEBUG_DIRECTORY)?;
    let entries = number(image, header + DEBUG_DIRECTORY + 4)? / DEBUG_ENTRY;
    let directory = place_in_file(image, header, address)?;
    let mut guid = None;
    let mut times = Vec::new();
    for entry in (0..entries).map(|index| directory + index * DEBUG_ENTRY) {
        times.push(entry + 4);
        if u32::from_le_bytes(field(image, entry + 12)?) == CODEVIEW {
            let record = number(image, entry + 24)?;
            ensure!(field::<4>(image, record)? == RECORD, "debug data of an old kind");
            guid = Some(record + RECORD.len());
        }
    }
    Ok((guid.context("the image names no symbols")?, times))
}

/// Where in the file what lies at `address` once it is loaded.
fn place_in_file(image: &[u8], header: usize, address: usize) -> Result<usize> {
    let sections = usize::from(u16::from_le_bytes(field(image, header + 6)?));
    let table = header + 24 + usize::from(u16::from_le_bytes(field(image, header + 20)?));
    for section in (0..sections).map(|index| table + index * 40) {
        let (start, size) = (number(image, section + 12)?, number(image, section + 16)?);
        if (start..start + size).contains(&address) {
            return Ok(address - start + number(image, section + 20)?);
        }
    }
    bail!("address {address:#x} lies in no section")
}

/// Where the symbols have their GUID: 12 bytes into their stream 1, whose first block the directory of streams names.
fn place_in_symbols(pdb: &[u8]) -> Result<usize> {
    ensure!(pdb.starts_with(b"Microsoft C/C++ MSF 7.00\r\n"), "that is no PDB");
    let block = number(pdb, 32)?;
    // The block that lists the blocks of the directory; the first of them is enough: it begins with the sizes.
    let directory = number(pdb, number(pdb, 52)? * block)? * block;
    let streams = number(pdb, directory)?;
    let before = match field(pdb, directory + 4)? {
        [0xFF, 0xFF, 0xFF, 0xFF] => 0,
        size => (u32::from_le_bytes(size) as usize).div_ceil(block),
    };
    let at = 4 * (1 + streams + before);
    ensure!(at + 4 <= block, "the PDB has more streams than its directory's first block tells of");
    Ok(number(pdb, directory + at)? * block + 12)
}

/// The checksum that Windows compares: of all words but the checksum's own, which are zero here.
fn checksum(image: &[u8]) -> u32 {
    let words = image.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair.get(1).copied().unwrap_or(0)) << 8);
    let sum = words.fold(0, |sum, word| {
        let sum: u32 = sum + word;
        (sum & 0xFFFF) + (sum >> 16)
    });
    sum.wrapping_add(u32::try_from(image.len()).unwrap_or(u32::MAX))
}

fn field<const SIZE: usize>(bytes: &[u8], at: usize) -> Result<[u8; SIZE]> {
    let field = bytes.get(at..at + SIZE).with_context(|| format!("nothing at {at:#x}"))?;
    Ok(field.try_into()?)
}

fn number(bytes: &[u8], at: usize) -> Result<usize> {
    Ok(usize::try_from(u32::from_le_bytes(field(bytes, at)?))?)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<()> {
    bytes.get_mut(at..at + value.len()).with_context(|| format!("nothing at {at:#x}"))?.copy_from_slice(value);
    Ok(())
}
