//! Functions and lines behind addresses, from the PDB that lies beside an image.

use std::{fmt, fs::File, path::PathBuf, rc::Rc};

use pdb_addr2line::{ContextPdbData, TypeFormatterFlags, pdb::PDB};
use serde::Serialize;

use super::{Exec, image::Image};

/// A frame of the driver's stack.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct StackFrame {
    /// The image; empty where none is.
    pub module: String,
    /// The offset in the image.
    pub offset: u64,
    /// The function, if there are symbols.
    pub function: Option<String>,
    /// File and line, if there are symbols.
    pub line: Option<(String, u32)>,
}

impl fmt::Display for StackFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { module, offset, function, line } = self;
        match function {
            Some(function) => write!(f, "{module}!{function}")?,
            None if module.is_empty() => write!(f, "no image")?,
            None => write!(f, "{module}+{offset:#x}")?,
        }
        line.as_ref().map_or(Ok(()), |(file, line)| write!(f, " ({file}:{line})"))
    }
}

impl Exec {
    /// The frames behind what [`Exec::driver_stack`] returned, inlined ones too, innermost first.
    pub fn describe_stack(&self, stack: &[u64]) -> Vec<StackFrame> {
        stack
            .chunk_by(|a, b| self.image_index(*a) == self.image_index(*b))
            .flat_map(|part| self.describe_part(part))
            .collect()
    }

    fn image_index(&self, address: u64) -> Option<usize> {
        self.images.borrow().iter().position(|image| image.contains(address))
    }

    /// Frames in one image, or in none.
    fn describe_part(&self, part: &[u64]) -> Vec<StackFrame> {
        let index = part.first().and_then(|address| self.image_index(*address));
        let image = index.map(|index| Rc::clone(&self.images.borrow()[index]));
        let Some(image) = image else {
            return part.iter().map(|address| self.outside(*address)).collect();
        };
        let module = image.path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let offsets: Vec<u64> = part.iter().map(|address| address - image.base).collect();
        with_symbols(&image, &module, &offsets).unwrap_or_else(|| {
            let plain =
                |offset: &u64| StackFrame { module: module.clone(), offset: *offset, function: None, line: None };
            offsets.iter().map(plain).collect()
        })
    }

    fn outside(&self, address: u64) -> StackFrame {
        let name = self.thunks.runtime_offset(address).and_then(super::crt::name_at);
        let module = name.map_or("", |_| "ntoskrnl").to_owned();
        StackFrame { module, offset: 0, function: name.map(str::to_owned), line: None }
    }
}

/// None where there are no symbols that belong to the image.
fn with_symbols(image: &Image, module: &str, offsets: &[u64]) -> Option<Vec<StackFrame>> {
    let data = ContextPdbData::try_from_pdb(open(image)?).ok()?;
    let context = data
        .make_context_with_formatter_flags(TypeFormatterFlags::NO_ARGUMENTS | TypeFormatterFlags::NO_FUNCTION_RETURN)
        .ok()?;
    let mut frames = Vec::new();
    for offset in offsets {
        let found = context.find_frames(u32::try_from(*offset).ok()?).ok().flatten();
        let frame = |function, line| StackFrame { module: module.to_owned(), offset: *offset, function, line };
        match found {
            Some(found) => frames.extend(found.frames.into_iter().map(|part| {
                let file = part.file.as_deref().map(short);
                frame(part.function, file.zip(part.line))
            })),
            None => frames.push(frame(None, None)),
        }
    }
    Some(frames)
}

/// The symbols beside the image, else where the linker left them: only those that were made with it.
fn open(image: &Image) -> Option<PDB<'static, File>> {
    let (named, number) = image.symbols.as_ref()?;
    let beside = image.path.with_extension("pdb");
    let linked = named.file_name().map_or_else(PathBuf::new, |name| image.path.with_file_name(name));
    [beside, linked, named.clone()].into_iter().find_map(|path| {
        let mut pdb = PDB::open(File::open(path).ok()?).ok()?;
        let fits = pdb.pdb_information().is_ok_and(|information| information.guid.to_bytes_le() == *number);
        fits.then_some(pdb)
    })
}

/// The last parts of a path: the file, its folder and the folder of that.
fn short(path: &str) -> String {
    let mut parts: Vec<&str> = path.rsplit(['/', '\\']).take(3).collect();
    parts.reverse();
    parts.join("/")
}
