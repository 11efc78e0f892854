//! The linked driver is an image that Windows loads, protects and can unwind, with imports that are documented.

use std::collections::BTreeMap;
use std::fs;
use std::iter;
use std::ops::Range;
use std::sync::OnceLock;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess, Register};
use object::pe::{
    IMAGE_DIRECTORY_ENTRY_DEBUG, IMAGE_DIRECTORY_ENTRY_EXCEPTION, IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE,
    IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY, IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA,
    IMAGE_DLLCHARACTERISTICS_NX_COMPAT, IMAGE_FILE_MACHINE_AMD64, IMAGE_SCN_MEM_DISCARDABLE, IMAGE_SCN_MEM_EXECUTE,
    IMAGE_SCN_MEM_WRITE, IMAGE_SUBSYSTEM_NATIVE, ImageNtHeaders64, SectionFlags,
};
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, Import, PeFile64};
use object::{LittleEndian as LE, U32};

/// What the driver reference documents, one `name<TAB>module` a line.
const DOCUMENTED: &str = include_str!("../data/documented_exports.tsv");

/// Exports that the reference documents as something else than a function of the kernel.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("memcmp", "C run-time library; compilers call it on their own"),
    ("memcpy", "C run-time library; compilers call it on their own"),
    ("memmove", "C run-time library; compilers call it on their own"),
    ("memset", "C run-time library; compilers call it on their own"),
    ("__C_specific_handler", "what compilers name in unwind information, on its page under user mode"),
    ("KeReleaseSpinLock", "documented as a macro, which it is on x86; an export on x64"),
    ("KeAcquireSpinLockAtDpcLevel", "documented as a macro, which it is on x86; an export on x64"),
    ("KeReleaseSpinLockFromDpcLevel", "documented as a macro, which it is on x86; an export on x64"),
    ("IoAcquireRemoveLockEx", "what the documented macro IoAcquireRemoveLock calls"),
    ("IoInitializeRemoveLockEx", "what the documented macro IoInitializeRemoveLock calls"),
    ("IoReleaseRemoveLockAndWaitEx", "what the documented macro IoReleaseRemoveLockAndWait calls"),
    ("IoReleaseRemoveLockEx", "what the documented macro IoReleaseRemoveLock calls"),
    (
        "MmGetPhysicalMemoryRanges",
        "declared in ntddk.h; its page is that of MmGetPhysicalMemoryRangesEx2, which came later",
    ),
];

/// The largest image that ships.
const MOST_BYTES: usize = 96 * 1024;

/// Registers that a function must restore, and so has to tell the unwinder about when it uses them.
const NONVOLATILE: &[Register] = &[
    Register::RBX,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
    Register::XMM6,
    Register::XMM7,
    Register::XMM8,
    Register::XMM9,
    Register::XMM10,
    Register::XMM11,
    Register::XMM12,
    Register::XMM13,
    Register::XMM14,
    Register::XMM15,
];

/// The driver as built, in memory for as long as the tests run.
fn bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES
        .get_or_init(|| fs::read(xtask::driver("hotadd").expect("the driver builds").sys).expect("the driver is there"))
}

fn image() -> PeFile64<'static> {
    PeFile64::parse(bytes()).expect("the driver is a 64-bit PE image")
}

fn headers() -> &'static ImageNtHeaders64 {
    let dos = object::pe::ImageDosHeader::parse(bytes()).expect("the image has a DOS header");
    let mut offset = dos.nt_headers_offset().into();
    ImageNtHeaders64::parse(bytes(), &mut offset).expect("the image has NT headers").0
}

/// A section as the loader sees it.
#[derive(Debug)]
struct Section {
    name: String,
    characteristics: SectionFlags,
    addresses: Range<u32>,
    data: &'static [u8],
}

impl Section {
    fn has(&self, characteristic: SectionFlags) -> bool {
        self.characteristics.contains(characteristic)
    }
}

fn sections() -> Vec<Section> {
    let image = image();
    let table = image.section_table();
    table
        .iter()
        .map(|section| {
            let address = section.virtual_address.get(LE);
            let size = section.virtual_size.get(LE);
            let data = section.pe_data(bytes()).expect("the section lies in the file");
            Section {
                name: String::from_utf8_lossy(section.raw_name()).into_owned(),
                characteristics: section.characteristics.get(LE),
                addresses: address..address + size,
                data: &data[..data.len().min(size as usize)],
            }
        })
        .collect()
}

fn section(name: &str) -> Section {
    sections().into_iter().find(|section| section.name == name).unwrap_or_else(|| panic!("there is a section {name}"))
}

/// The imported names by module.
fn imports() -> Vec<(String, String)> {
    let image = image();
    let table = image.import_table().expect("the import directory is sound").expect("the driver imports something");
    let mut found = Vec::new();
    let mut descriptors = table.descriptors().expect("the import directory is sound");
    while let Some(descriptor) = descriptors.next().expect("a descriptor is sound") {
        let module = table.name(descriptor.name.get(LE)).expect("a module has a name");
        let module = String::from_utf8_lossy(module).to_ascii_lowercase();
        let mut thunks = table.thunks(descriptor.original_first_thunk.get(LE)).expect("the thunks are sound");
        while let Some(thunk) = thunks.next::<ImageNtHeaders64>().expect("a thunk is sound") {
            let import = table.import::<ImageNtHeaders64>(thunk).expect("an import is sound");
            let Import::Name(_, name) = import else { panic!("{module} is asked for an ordinal: {import:?}") };
            found.push((module.clone(), String::from_utf8_lossy(name).into_owned()));
        }
    }
    found
}

/// The ranges of addresses that have unwind information, in the order of the table.
fn functions() -> Vec<Range<u32>> {
    let directory =
        image().data_directories().get(IMAGE_DIRECTORY_ENTRY_EXCEPTION).expect("there is a .pdata").to_owned();
    let data = directory.data(bytes(), &image().section_table()).expect("the .pdata lies in the file");
    let (entries, _) = object::slice_from_bytes::<[U32<LE>; 3]>(data, data.len() / 12).expect("entries of 12 bytes");
    entries.iter().map(|[begin, end, _]| begin.get(LE)..end.get(LE)).collect()
}

#[test]
fn the_image_is_a_native_one_for_x64() {
    let headers = headers();

    assert_eq!(headers.file_header().machine.get(LE), IMAGE_FILE_MACHINE_AMD64);
    assert_eq!(headers.optional_header().subsystem(), IMAGE_SUBSYSTEM_NATIVE);
}

#[test]
fn the_image_asks_for_every_protection() {
    let characteristics = headers().optional_header().dll_characteristics();

    for (name, bit) in [
        ("no execution of data", IMAGE_DLLCHARACTERISTICS_NX_COMPAT),
        ("dynamic base", IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE),
        ("high-entropy addresses", IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA),
        ("integrity check", IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY),
    ] {
        assert!(characteristics.contains(bit), "{name} is missing");
    }
}

#[test]
fn the_checksum_is_that_of_the_file() {
    let headers = headers();
    let field = std::ptr::from_ref(&headers.optional_header).addr() - bytes().as_ptr().addr() + 64;

    let mut sum: u64 = 0;
    for (index, pair) in bytes().chunks(2).enumerate() {
        if index * 2 != field && index * 2 != field + 2 {
            sum += u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 8;
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
    }

    assert_eq!(u64::from(headers.optional_header().check_sum()), sum + bytes().len() as u64);
}

/// The linker marks what it made so; without, there is the time of linking in it.
#[test]
fn the_image_is_marked_as_reproducible() {
    const REPRODUCIBLE: u32 = 16;
    let directory =
        image().data_directories().get(IMAGE_DIRECTORY_ENTRY_DEBUG).expect("there is debug data").to_owned();
    let data = directory.data(bytes(), &image().section_table()).expect("it lies in the file");

    let kinds: Vec<_> =
        data.chunks_exact(28).map(|entry| u32::from_le_bytes([entry[12], entry[13], entry[14], entry[15]])).collect();

    assert!(kinds.contains(&REPRODUCIBLE), "debug data of the kinds {kinds:?}");
}

/// The linker makes another identity each time, of the names of temporary files among others; what ships does not have it.
#[test]
fn the_image_has_the_same_identity_whatever_the_linker_gave_it() {
    const NEW: [u8; 16] = [7; 16];
    let pdb = fs::read(xtask::driver("hotadd").expect("the driver builds").pdb).expect("its symbols are there");
    let record = bytes().windows(4).position(|window| window == b"RSDS").expect("it names its symbols") + 4;
    let identity = &bytes()[record..record + 16];
    let place = pdb.windows(16).position(|window| window == identity).expect("the symbols are the image's");
    let (mut other, mut other_pdb) = (bytes().to_vec(), pdb.clone());
    other[record..record + 16].copy_from_slice(&NEW);
    other_pdb[place..place + 16].copy_from_slice(&NEW);
    let time = usize::from(other[0x3C]) + 8;
    other[time] ^= 1;

    kit::settle(&mut other, &mut other_pdb).expect("they belong together");

    assert!(other == bytes(), "the image differs");
    assert!(other_pdb == pdb, "the symbols differ");
    other_pdb[place] ^= 1;
    assert!(kit::settle(&mut other, &mut other_pdb).is_err(), "the symbols of another image");
}

/// Read by a library that did not write it.
#[test]
fn the_version_resource_says_what_the_driver_is() {
    let image = pelite::PeFile::from_bytes(bytes()).expect("the driver is an image");
    let resources = image.resources().expect("it has resources");

    let version = resources.version_info().expect("it has a version");

    let fixed = version.fixed().expect("it has the numbers of a version");
    let number = [fixed.dwFileVersion.Major, fixed.dwFileVersion.Minor, fixed.dwFileVersion.Patch];
    assert_eq!(number.map(|part| part.to_string()).join("."), env!("CARGO_PKG_VERSION"));
    assert_eq!(fixed.dwProductVersion, fixed.dwFileVersion);
    assert_eq!((fixed.dwFileType, fixed.dwFileSubtype), (3, 7), "a driver of the system");
    let [language] = version.translation() else { panic!("one language") };
    let text = |name| version.value(*language, name).unwrap_or_default();
    assert_eq!(text("OriginalFilename"), "hotadd.sys");
    assert_eq!(text("FileVersion"), concat!(env!("CARGO_PKG_VERSION"), ".0"));
    assert_eq!([text("ProductName"), text("CompanyName")], ["hotadd"; 2]);
}

/// Neither what the linker was given nor what a panic would print names the machine that built it.
#[test]
fn no_path_of_the_machine_is_in_the_image() {
    let root = kit::root().to_str().expect("a path in UTF-8");
    let home = std::env::var("HOME").unwrap_or_else(|_| "/home/".to_owned());

    // A home such as `/` says nothing.
    for path in [root, home.as_str()].into_iter().filter(|path| path.len() > 4) {
        let found = bytes().windows(path.len()).position(|window| window.eq_ignore_ascii_case(path.as_bytes()));
        assert_eq!(found, None, "{path} is in the image");
    }
}

#[test]
fn no_section_is_writable_and_executable() {
    for section in sections() {
        assert!(!(section.has(IMAGE_SCN_MEM_WRITE) && section.has(IMAGE_SCN_MEM_EXECUTE)), "{section:?}");
    }
}

#[test]
fn driver_entry_is_in_init_which_is_discarded() {
    let init = section("INIT");

    assert!(init.has(IMAGE_SCN_MEM_EXECUTE));
    assert!(init.has(IMAGE_SCN_MEM_DISCARDABLE));
    assert!(init.addresses.contains(&headers().optional_header().address_of_entry_point()));
}

#[test]
fn pageable_code_is_in_page_which_stays() {
    let page = section("PAGE");

    assert!(page.has(IMAGE_SCN_MEM_EXECUTE));
    assert!(!page.has(IMAGE_SCN_MEM_DISCARDABLE));
}

#[test]
fn nothing_else_is_discarded_than_init_and_relocations() {
    let discarded: Vec<_> = sections().into_iter().filter(|section| section.has(IMAGE_SCN_MEM_DISCARDABLE)).collect();

    for section in discarded {
        assert!(["INIT", ".reloc"].contains(&section.name.as_str()), "{} is discardable", section.name);
    }
}

#[test]
fn every_import_is_documented_for_its_module() {
    let documented: BTreeMap<&str, &str> =
        DOCUMENTED.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('\t')).collect();
    let imports = imports();
    assert!(!imports.is_empty());

    let wrong: Vec<_> = imports
        .iter()
        .filter(|(module, name)| {
            let is_exception = EXCEPTIONS.iter().any(|(exception, _)| exception == name) && module == "ntoskrnl.exe";
            let is_documented = match documented.get(name.as_str()) {
                Some(&"?") => module == "ntoskrnl.exe" || module == "hal.dll",
                Some(documented) => module == documented,
                None => false,
            };
            !is_documented && !is_exception
        })
        .collect();

    assert!(wrong.is_empty(), "not documented: {wrong:?}");
}

#[test]
fn unwind_entries_are_in_order_and_lie_in_code() {
    let code: Vec<_> = sections().into_iter().filter(|section| section.has(IMAGE_SCN_MEM_EXECUTE)).collect();
    let functions = functions();
    assert!(!functions.is_empty());

    for function in &functions {
        assert!(function.start < function.end, "{function:x?}");
        let holds = |section: &Section| {
            section.addresses.contains(&function.start) && section.addresses.contains(&(function.end - 1))
        };
        assert!(code.iter().any(holds), "{function:x?} is not in code");
    }
    for pair in functions.windows(2) {
        assert!(pair[0].end <= pair[1].start, "{pair:x?} overlap");
    }
}

/// The x64 calling convention lets a function go without unwind information only if it is a leaf: it calls nothing and
/// changes neither the stack pointer nor a register that belongs to its caller. So code outside of every entry
/// must not do any of that, whatever functions it belongs to.
#[test]
fn every_function_that_is_not_a_leaf_has_an_unwind_entry() {
    let functions = functions();

    for section in sections().iter().filter(|section| section.has(IMAGE_SCN_MEM_EXECUTE)) {
        let mut next = section.addresses.start;
        let inside = functions.iter().filter(|function| section.addresses.contains(&function.start)).cloned();
        for function in inside.chain(iter::once(section.addresses.end..section.addresses.end)) {
            assert_leaf(section, next..function.start);
            next = function.end;
        }
    }
}

#[test]
#[should_panic(expected = "has no unwind entry")]
fn a_function_without_its_unwind_entry_would_be_found() {
    let text = section(".text");

    assert_leaf(&text, text.addresses.clone());
}

/// Asserts that the code in `addresses`, none of it under an unwind entry, is that of leaf functions or padding.
fn assert_leaf(section: &Section, addresses: Range<u32>) {
    let offset = |address: u32| ((address - section.addresses.start) as usize).min(section.data.len());
    let code = &section.data[offset(addresses.start)..offset(addresses.end)];
    let mut decoder = Decoder::with_ip(64, code, addresses.start.into(), DecoderOptions::NONE);
    let mut infos = InstructionInfoFactory::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        assert!(!instruction.is_invalid(), "{}: no code at {:#x}", section.name, instruction.ip());
        assert!(
            is_leaf(&instruction, &mut infos),
            "{}: {instruction} at {:#x} has no unwind entry",
            section.name,
            instruction.ip()
        );
    }
}

fn is_leaf(instruction: &Instruction, infos: &mut InstructionInfoFactory) -> bool {
    match instruction.flow_control() {
        FlowControl::Call | FlowControl::IndirectCall => return false,
        FlowControl::Return => return true,
        _ => {}
    }
    infos.info(instruction).used_registers().iter().all(|used| {
        let written = matches!(
            used.access(),
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        );
        let register = used.register();
        let full = if register.is_vector_register() { register } else { register.full_register() };
        !written || (full != Register::RSP && !NONVOLATILE.contains(&full))
    })
}

#[test]
fn the_image_is_small() {
    assert!(bytes().len() <= MOST_BYTES, "{} bytes", bytes().len());
}
