//! What the bytes of an image are, from its symbols: for whoever makes it smaller.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result};
use object::{
    Object, ObjectSection, SectionFlags,
    pe::IMAGE_SCN_CNT_CODE,
    read::pe::{PeFile64, PeSection64},
};
use pdb_addr2line::{Context as Symbols, ContextPdbData, Frame, TypeFormatterFlags, pdb::PDB};

use super::requests::count_of;

/// Functions and source files that are told one by one.
const TOLD: usize = 100;
/// `jmp [rip + …]`: what a call of a kernel function goes through where the compiler did not know that it is one.
const THUNK: [u8; 2] = [0xFF, 0x25];
const THUNKS: &str = "(jumps to kernel functions)";
const PADDING: &str = "(padding)";

/// The bytes of an image, most first.
pub struct Sizes {
    /// Parts of the file: the headers and the sections, as they lie there, and what was rounded up.
    pub parts: BTreeMap<String, f64>,
    /// Code by the file of the sources that it is from, wherever it was inlined.
    pub sources: Vec<(String, u64)>,
    /// Code by function, as the linker left them.
    pub functions: Vec<(String, u64)>,
}

impl Sizes {
    /// Those of the image in the file `sys`, beside which its symbols lie.
    ///
    /// # Errors
    ///
    /// Image or symbols cannot be read.
    pub fn of(sys: &Path) -> Result<Self> {
        let image = fs::read(sys).with_context(|| format!("reading {}", sys.display()))?;
        let file = PeFile64::parse(&*image).with_context(|| sys.display().to_string())?;
        let pdb = sys.with_extension("pdb");
        let symbols = File::open(&pdb).with_context(|| format!("reading {}", pdb.display()))?;
        let symbols = ContextPdbData::try_from_pdb(PDB::open(symbols)?)?;
        let symbols = symbols.make_context_with_formatter_flags(
            TypeFormatterFlags::NO_ARGUMENTS | TypeFormatterFlags::NO_FUNCTION_RETURN,
        )?;
        let (mut sources, mut functions) = (BTreeMap::new(), BTreeMap::new());
        for section in file.sections().filter(is_code) {
            code(&file, &section, &symbols, &mut sources, &mut functions)?;
        }
        Ok(Self { parts: parts(&file, image.len()), sources: most_first(sources), functions: most_first(functions) })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The file:")?;
        for (part, bytes) in &self.parts {
            writeln!(f, "  {bytes:>8}  {part}")?;
        }
        for (title, sizes) in [("source, wherever it was inlined", &self.sources), ("function", &self.functions)] {
            writeln!(f, "\nCode by {title}:")?;
            for (name, bytes) in sizes.iter().take(TOLD) {
                writeln!(f, "  {bytes:>8}  {name}")?;
            }
            let rest = sizes.get(TOLD..).unwrap_or_default();
            if !rest.is_empty() {
                writeln!(f, "  {:>8}  {} more", rest.iter().map(|(_, bytes)| bytes).sum::<u64>(), rest.len())?;
            }
        }
        Ok(())
    }
}

fn is_code(section: &PeSection64<'_, '_>) -> bool {
    matches!(section.flags(), SectionFlags::Coff { characteristics } if characteristics & IMAGE_SCN_CNT_CODE != 0)
}

fn parts(file: &PeFile64<'_>, bytes: usize) -> BTreeMap<String, f64> {
    let sections = file.sections().filter_map(|section| Some((section.name().ok()?.to_owned(), section.size())));
    let mut parts: BTreeMap<String, u64> = sections.collect();
    let headers = u64::from(file.nt_headers().optional_header.size_of_headers.get(object::LittleEndian));
    let rounding = (bytes as u64).saturating_sub(headers + parts.values().sum::<u64>());
    parts.extend([("headers".to_owned(), headers), ("up to whole 512 bytes".to_owned(), rounding)]);
    parts.into_iter().map(|(name, size)| (name, count_of(size))).collect()
}

/// Adds the bytes of a section up.
fn code(
    file: &PeFile64<'_>,
    section: &PeSection64<'_, '_>,
    symbols: &Symbols<'_, '_>,
    sources: &mut BTreeMap<String, u64>,
    functions: &mut BTreeMap<String, u64>,
) -> Result<()> {
    let start = section.address() - file.relative_address_base();
    let bytes = section.data()?;
    let at = |rva: u32| bytes.get(usize::try_from(u64::from(rva).checked_sub(start)?).ok()?..);
    for rva in start..start + bytes.len() as u64 {
        let rva = u32::try_from(rva)?;
        let found = symbols.find_frames(rva)?;
        let (source, function) = match &found {
            Some(found) if at(found.start_rva).is_some_and(|code| code.starts_with(&THUNK)) => {
                (THUNKS.to_owned(), THUNKS.to_owned())
            }
            Some(found) => (source(&found.frames), function(&found.frames)),
            None => (PADDING.to_owned(), PADDING.to_owned()),
        };
        *sources.entry(source).or_default() += 1;
        *functions.entry(function).or_default() += 1;
    }
    Ok(())
}

/// The function that code is in.
fn function(frames: &[Frame<'_>]) -> String {
    frames.last().and_then(|frame| frame.function.clone()).unwrap_or_else(|| PADDING.to_owned())
}

/// The file that code is from; what is inlined of the language's library counts for who called it.
fn source(frames: &[Frame<'_>]) -> String {
    let mut files = frames.iter().filter_map(|frame| frame.file.as_deref()).map(|file| file.replace('\\', "/"));
    let own = files.clone().find(|file| !file.starts_with("/rustc/"));
    own.or_else(|| files.next()).map_or_else(|| PADDING.to_owned(), |file| short(&file))
}

/// The path from the root of the workspace on, or from where others' sources lie.
fn short(file: &str) -> String {
    let root = kit::root().to_string_lossy().replace('\\', "/");
    let file = file.strip_prefix(&*root).unwrap_or(file).trim_start_matches('/');
    // As drivers are built on Linux, the compiler says `hotadd` for the workspace and `vendor` for other crates.
    let file = file.strip_prefix("hotadd/").unwrap_or(file);
    match ["/vendor/", "/km/", "/include/", "/library/", "/out/"].iter().find_map(|place| file.split_once(place)) {
        Some((_, outside)) => outside.to_owned(),
        None => file.to_owned(),
    }
}

fn most_first(sizes: BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let mut sizes = Vec::from_iter(sizes);
    sizes.sort_by_key(|(_, bytes)| Reverse(*bytes));
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::Driver;

    #[test]
    fn every_byte_of_an_image_is_told_once() {
        let image = Driver::FLOOR_C.build().expect("the floor in C builds").sys;
        let sizes = Sizes::of(&image).expect("its symbols lie beside it");
        let sum = |sizes: &[(String, u64)]| sizes.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let code = sum(&sizes.functions);

        let whole = fs::metadata(&image).expect("the image").len();
        assert!((sizes.parts.values().sum::<f64>() - count_of(whole)).abs() < 0.5);
        assert!((sizes.parts[".text"] - count_of(code)).abs() < 0.5);
        assert_eq!(sum(&sizes.sources), code);
        assert!(sizes.functions.iter().any(|(name, _)| name == "DriverEntry"), "{sizes}");
    }
}
