//! Loads driver images.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    rc::Rc,
};

use object::{
    LittleEndian as LE, Object as _, pe,
    read::pe::{ExportTarget, ImageThunkData, PeFile64},
};
use thiserror::Error;

use super::Exec;
use crate::{
    exports,
    memory::{Arena, PAGE, PageKind, host},
};

/// The modules whose functions the lab has.
pub(super) const MODULES: [&str; 2] = ["ntoskrnl.exe", "hal.dll"];
/// Where `IMAGE_LOAD_CONFIG_DIRECTORY64` has the address of the security cookie.
const SECURITY_COOKIE: u32 = 0x58;
/// What the loader writes there. Windows takes a random number, which would make runs differ.
const COOKIE: u64 = 0x0000_5EC0_9A1D_27B3;

/// An import that the lab does not have.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Missing {
    /// The module it is imported from.
    pub module: String,
    /// Its name, or # and its ordinal.
    pub name: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}!{}", self.module, self.name)
    }
}

/// Why an image was not loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// The host's error.
        error: io::Error,
    },
    /// It is no 64-bit PE image, or a damaged one.
    #[error("not a valid x64 image: {0}")]
    Malformed(#[from] object::Error),
    /// It is none that Windows would load as a driver, or needs what the lab does not model.
    #[error("not a driver image: {0}")]
    NotADriver(&'static str),
    /// It needs functions that the lab does not have: all of them.
    #[error("the lab does not have {} imported function(s): {}", .0.len(), list(.0))]
    MissingImports(Vec<Missing>),
}

fn list(missing: &[Missing]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A section of a loaded image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Its first address.
    pub start: u64,
    /// Its length in whole pages.
    pub length: u64,
    /// What its pages are.
    pub kind: PageKind,
    /// Whether it is discarded after `DriverEntry`.
    pub discardable: bool,
}

/// A loaded driver image.
#[derive(Debug)]
pub struct Image {
    /// The file it came from.
    pub path: PathBuf,
    /// Its first address.
    pub base: u64,
    /// Its length in whole pages.
    pub length: u64,
    /// The address of `DriverEntry`.
    pub entry: u64,
    /// Its sections.
    pub sections: Vec<Section>,
    /// What it exports.
    pub exports: BTreeMap<String, u64>,
    /// Its symbols: the file named in it, and the number that file must have.
    pub(super) symbols: Option<(PathBuf, [u8; 16])>,
    /// The file as it was read.
    pub(super) file: Vec<u8>,
    /// Its bytes as they were loaded.
    pub(super) bytes: Vec<u8>,
    /// Where the function table lies in `bytes`.
    pub(super) function_table: std::ops::Range<usize>,
}

impl Image {
    /// Whether the address lies in the image.
    #[must_use]
    pub const fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.base) < self.length
    }
}

impl Exec {
    /// Loads a driver image: relocates it, binds its imports, protects its sections.
    ///
    /// # Errors
    /// Why it was not loaded; nothing of it is left in the machine then.
    pub fn load(&self, path: &Path) -> Result<Rc<Image>, LoadError> {
        let file = fs::read(path).map_err(|error| LoadError::Read { path: path.display().to_string(), error })?;
        let image = match self.load_kept(path, &file) {
            Some(image) => image,
            None => Rc::new(self.bind_image(path, file)?),
        };
        self.put_in_place(&image);
        self.images.borrow_mut().push(Rc::clone(&image));
        Ok(image)
    }

    /// The image in a file at the next free place, relocated and bound.
    fn bind_image(&self, path: &Path, file: Vec<u8>) -> Result<Image, LoadError> {
        let pe = PeFile64::parse(&*file)?;
        check(&pe)?;
        let header = &pe.nt_headers().optional_header;
        let mut bytes = copy_sections(&pe, &file)?;
        let imports = imports(&pe)?;
        let missing: Vec<Missing> =
            imports.iter().filter(|import| !self.has(import)).map(|import| import.function.clone()).collect();
        if !missing.is_empty() {
            return Err(LoadError::MissingImports(missing));
        }
        let length = bytes.len() as u64;
        let base = self.space.take(Arena::Images, length);
        relocate(&pe, &file, &mut bytes, base.wrapping_sub(header.image_base.get(LE)))?;
        for import in &imports {
            put(&mut bytes, import.slot, self.bind(&import.function.name).unwrap_or(0))?;
        }
        set_cookie(&pe, &mut bytes, base)?;
        Ok(Image {
            path: path.to_owned(),
            base,
            length,
            entry: base + u64::from(header.address_of_entry_point.get(LE)),
            sections: sections(&pe, base),
            exports: exported(&pe, base)?,
            symbols: symbols(&pe)?,
            bytes,
            function_table: function_table(&pe),
            file,
        })
    }

    /// Puts an image where it belongs.
    fn put_in_place(&self, image: &Image) {
        let mut bytes = image.bytes.clone();
        if let Some(coverage) = &self.coverage {
            let number = u32::try_from(self.images.borrow().len()).unwrap_or(u32::MAX);
            coverage.add(image, number, &mut bytes);
        }
        if let Some(detours) = &self.detours {
            detours.borrow().put_into(image, &mut bytes);
        }
        self.space.open(image.base, image.length, PageKind::ImageReadOnly);
        self.space.write(image.base, &bytes);
        self.space.protect(image.base, image.length, PageKind::ImageReadOnly);
        for section in &image.sections {
            self.space.protect(section.start, section.length, section.kind);
        }
    }

    fn has(&self, import: &Import) -> bool {
        let Missing { module, name } = &import.function;
        MODULES.iter().any(|known| known.eq_ignore_ascii_case(module)) && self.bind(name).is_some()
    }

    /// The address of what the kernel exports by this name.
    pub fn bind(&self, name: &str) -> Option<u64> {
        let own = self.runtime_function(name).or_else(|| self.variable(name));
        own.or_else(|| exports::find(name).map(|export| self.thunk(export)))
    }

    /// Discards the sections that are needed for initialization only: their pages fault from now on.
    pub fn discard_init(&self, image: &Image) {
        for section in image.sections.iter().filter(|section| section.discardable) {
            self.space.close(section.start, section.length, PageKind::ImageDiscarded);
        }
    }

    /// Takes an image out of the machine: its pages fault from now on, and are never used again.
    pub fn unload(&self, image: &Image) {
        self.space.close(image.base, image.length, PageKind::ImageUnloaded);
    }
}

pub(super) fn check(pe: &PeFile64<'_>) -> Result<(), LoadError> {
    let header = pe.nt_headers();
    let optional = &header.optional_header;
    let refused = if header.file_header.machine.get(LE) != pe::IMAGE_FILE_MACHINE_AMD64 {
        "its machine is not x64"
    } else if optional.subsystem.get(LE) != pe::IMAGE_SUBSYSTEM_NATIVE {
        "its subsystem is not native"
    } else if u64::from(optional.section_alignment.get(LE)) < PAGE {
        "its sections are smaller than pages"
    } else if header.file_header.characteristics.get(LE).0 & pe::IMAGE_FILE_RELOCS_STRIPPED.0 != 0 {
        "it cannot be relocated"
    } else if optional.address_of_entry_point.get(LE) == 0 {
        "it has no entry point"
    } else {
        return Ok(());
    };
    Err(LoadError::NotADriver(refused))
}

/// The image as it lies in memory, before relocation.
fn copy_sections(pe: &PeFile64<'_>, file: &[u8]) -> Result<Vec<u8>, LoadError> {
    let optional = &pe.nt_headers().optional_header;
    let length = u64::from(optional.size_of_image.get(LE)).next_multiple_of(PAGE);
    let mut bytes = vec![0; host::to_usize(length)];
    let headers = optional.size_of_headers.get(LE) as usize;
    place(&mut bytes, 0, file.get(..headers).ok_or(LoadError::NotADriver("its headers are cut off"))?)?;
    for section in pe.section_table().iter() {
        let (offset, size) = section.pe_file_range();
        let size = size.min(section.virtual_size.get(LE)) as usize;
        let offset = offset as usize;
        let data = file.get(offset..offset + size).ok_or(LoadError::NotADriver("a section is cut off"))?;
        place(&mut bytes, section.virtual_address.get(LE), data)?;
    }
    Ok(bytes)
}

fn place(bytes: &mut [u8], rva: u32, data: &[u8]) -> Result<(), LoadError> {
    let start = rva as usize;
    let room = bytes.get_mut(start..start + data.len()).ok_or(LoadError::NotADriver("something lies outside it"))?;
    room.copy_from_slice(data);
    Ok(())
}

fn put(bytes: &mut [u8], rva: u32, value: u64) -> Result<(), LoadError> {
    place(bytes, rva, &value.to_le_bytes())
}

fn get(bytes: &[u8], rva: u32) -> Result<u64, LoadError> {
    let start = rva as usize;
    let value = bytes.get(start..start + 8).and_then(|value| value.try_into().ok());
    value.map(u64::from_le_bytes).ok_or(LoadError::NotADriver("something lies outside it"))
}

fn relocate(pe: &PeFile64<'_>, file: &[u8], bytes: &mut [u8], delta: u64) -> Result<(), LoadError> {
    let Some(mut blocks) = pe.data_directories().relocation_blocks(file, &pe.section_table())? else { return Ok(()) };
    while let Some(block) = blocks.next()? {
        for relocation in block {
            if relocation.typ == pe::IMAGE_REL_BASED_ABSOLUTE {
                continue;
            }
            if relocation.typ != pe::IMAGE_REL_BASED_DIR64 {
                return Err(LoadError::NotADriver("it has relocations of an unknown type"));
            }
            let value = get(bytes, relocation.virtual_address)?;
            put(bytes, relocation.virtual_address, value.wrapping_add(delta))?;
        }
    }
    Ok(())
}

pub(super) struct Import {
    pub function: Missing,
    /// Where its address goes.
    slot: u32,
}

pub(super) fn imports(pe: &PeFile64<'_>) -> Result<Vec<Import>, LoadError> {
    let mut imports = Vec::new();
    let Some(table) = pe.import_table()? else { return Ok(imports) };
    let mut descriptors = table.descriptors()?;
    while let Some(descriptor) = descriptors.next()? {
        let module = String::from_utf8_lossy(table.name(descriptor.name.get(LE))?).into_owned();
        let mut thunks = table.thunks(descriptor.original_first_thunk.get(LE))?;
        let mut slot = descriptor.first_thunk.get(LE);
        while let Some(thunk) = thunks.next::<pe::ImageNtHeaders64>()? {
            let name = if ImageThunkData::is_ordinal(thunk) {
                format!("#{}", ImageThunkData::ordinal(thunk))
            } else {
                let (_, name) = table.hint_name(ImageThunkData::address(thunk))?;
                String::from_utf8_lossy(name).into_owned()
            };
            imports.push(Import { function: Missing { module: module.clone(), name }, slot });
            slot += 8;
        }
    }
    Ok(imports)
}

fn set_cookie(pe: &PeFile64<'_>, bytes: &mut [u8], base: u64) -> Result<(), LoadError> {
    let Some(directory) = pe.data_directory(pe::IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG) else { return Ok(()) };
    let (start, size) = directory.address_range();
    if start == 0 || size < SECURITY_COOKIE + 8 {
        return Ok(());
    }
    let cookie = get(bytes, start + SECURITY_COOKIE)?;
    match u32::try_from(cookie.wrapping_sub(base)) {
        Ok(rva) if cookie != 0 => put(bytes, rva, COOKIE),
        _ => Ok(()),
    }
}

/// The function table's place in the image; empty if there is none.
fn function_table(pe: &PeFile64<'_>) -> std::ops::Range<usize> {
    let directory = pe.data_directory(pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION);
    let (start, size) = directory.map_or((0, 0), pe::ImageDataDirectory::address_range);
    start as usize..start as usize + size as usize
}

fn symbols(pe: &PeFile64<'_>) -> Result<Option<(PathBuf, [u8; 16])>, LoadError> {
    let info = pe.pdb_info()?;
    Ok(info.map(|info| (PathBuf::from(String::from_utf8_lossy(info.path()).as_ref()), info.guid())))
}

fn sections(pe: &PeFile64<'_>, base: u64) -> Vec<Section> {
    let table = pe.section_table();
    let each = table.iter().map(|section| {
        let name = String::from_utf8_lossy(section.raw_name()).into_owned();
        let flags = section.characteristics.get(LE);
        Section {
            kind: section_kind(flags, name.starts_with("PAGE")),
            discardable: flags.0 & pe::IMAGE_SCN_MEM_DISCARDABLE.0 != 0,
            start: base + u64::from(section.virtual_address.get(LE)),
            length: u64::from(section.virtual_size.get(LE)).next_multiple_of(PAGE),
            name,
        }
    });
    each.collect()
}

const fn section_kind(flags: pe::SectionFlags, pageable: bool) -> PageKind {
    let write = flags.0 & pe::IMAGE_SCN_MEM_WRITE.0 != 0;
    let execute = flags.0 & pe::IMAGE_SCN_MEM_EXECUTE.0 != 0;
    match (write, execute, pageable) {
        (false, false, false) => PageKind::ImageReadOnly,
        (false, true, false) => PageKind::ImageCode,
        (true, false, false) => PageKind::ImageData,
        (false, false, true) => PageKind::PagedReadOnly,
        (false, true, true) => PageKind::PagedCode,
        (true, false, true) => PageKind::PagedData,
        (true, true, _) => PageKind::ImageWritableCode,
    }
}

fn exported(pe: &PeFile64<'_>, base: u64) -> Result<BTreeMap<String, u64>, LoadError> {
    let mut all = BTreeMap::new();
    let Some(table) = pe.export_table()? else { return Ok(all) };
    for export in table.exports()? {
        if let (Some(name), ExportTarget::Address(rva)) = (export.name, export.target) {
            all.insert(String::from_utf8_lossy(name).into_owned(), base + u64::from(rva));
        }
    }
    Ok(all)
}
