//! How large the drivers' images are.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use object::{
    LittleEndian, Object, ObjectSection,
    pe::{IMAGE_REL_BASED_ABSOLUTE, ImageNtHeaders64},
    read::pe::PeFile64,
};

use super::figures::{Built, Group, Unit, Value};
use super::requests::count_of;
use super::sizes::Sizes;

/// Sections, and what is in them.
const SECTIONS: [(&str, &str); 4] = [
    (".text", "code that stays"),
    ("PAGE", "code that may be paged out"),
    ("INIT", "code that is discarded after DriverEntry"),
    (".rdata", "constants, unwind data and the like"),
];

/// The size of a driver's image and of its parts.
///
/// # Errors
///
/// The image cannot be read.
pub fn figures(built: &Built) -> Result<Vec<Value>> {
    let image = fs::read(&built.sys).with_context(|| format!("reading {}", built.sys.display()))?;
    let parts = Sizes::of(&built.sys)?.parts;
    sizes(&image, parts).with_context(|| built.sys.display().to_string())
}

fn sizes(image: &[u8], parts: BTreeMap<String, f64>) -> Result<Vec<Value>> {
    let file = PeFile64::parse(image)?;
    let value = |name: &str, what: String, unit, count: usize| {
        Value::new(Group::Image, format!("image/{name}"), what, unit, count_of(count as u64))
    };
    let mut values = vec![value("file", "the file".to_owned(), Unit::Bytes, image.len()).of(parts)];
    for (name, what) in SECTIONS {
        let size =
            file.sections().filter(|section| section.name() == Ok(name)).map(|section| section.size()).sum::<u64>();
        let name = name.trim_start_matches('.').to_lowercase();
        values.push(Value::new(
            Group::Image,
            format!("image/{name}"),
            format!("{name}: {what}"),
            Unit::Bytes,
            count_of(size),
        ));
    }
    values.push(value("relocations", "relocations".to_owned(), Unit::Count, relocations(&file)?));
    values.push(value("imports", "functions imported".to_owned(), Unit::Count, imports(&file)?));
    Ok(values)
}

/// How many places the loader changes where the image is not where it was linked for.
fn relocations(file: &PeFile64<'_>) -> Result<usize> {
    let Some(mut blocks) = file.data_directories().relocation_blocks(file.data(), &file.section_table())? else {
        return Ok(0);
    };
    let mut count = 0;
    while let Some(block) = blocks.next()? {
        // The others fill a block up.
        count += block.filter(|relocation| relocation.typ != IMAGE_REL_BASED_ABSOLUTE).count();
    }
    Ok(count)
}

fn imports(file: &PeFile64<'_>) -> Result<usize> {
    let Some(table) = file.import_table()? else { return Ok(0) };
    let mut descriptors = table.descriptors()?;
    let mut count = 0;
    while let Some(descriptor) = descriptors.next()? {
        let mut thunks = table.thunks(descriptor.original_first_thunk.get(LittleEndian))?;
        while thunks.next::<ImageNtHeaders64>()?.is_some() {
            count += 1;
        }
    }
    Ok(count)
}
