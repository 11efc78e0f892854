//! Where the fields of structures are, by the rules of C for x64.

use std::path::{Path, PathBuf};

use crate::rust::Type;

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Definition {
    /// A structure or union.
    Structure(Structure),
    /// Another type.
    Alias(Type),
    /// An integer.
    Constant(i128),
    /// Another constant.
    SameAs(String),
}

/// A structure or union.
#[derive(Clone, Debug)]
pub struct Structure {
    /// All fields start at 0.
    pub is_union: bool,
    /// The most any field is aligned to.
    pub packing: usize,
    /// The least the whole is aligned to.
    pub align: usize,
    /// In order.
    pub fields: Vec<(String, Type)>,
}

/// A field, of the structure itself or of one inside.
#[derive(Clone, Debug)]
pub struct Field {
    /// The names on the way to it, `~N` for the Nth member without a name.
    pub path: String,
    /// Its offset in the outermost structure.
    pub offset: usize,
    /// Its type.
    pub ty: Type,
}

impl Field {
    /// The names on the way to it that the headers give.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.path.split('.').filter(|name| !name.starts_with('~'))
    }
}

/// Size and alignment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Layout {
    /// In bytes.
    pub size: usize,
    /// In bytes.
    pub align: usize,
}

/// A set of definitions, each in a module.
pub trait Definitions {
    /// What `name` stands for in `module`.
    fn definition(&self, module: &Path, name: &str) -> Option<Definition>;

    /// Whether `inner` is a type without a name of its own in `outer`.
    fn is_inner(&self, inner: &str, outer: &str) -> bool;

    /// How a path shows the member `name`.
    fn path_element(&self, name: &str) -> String;

    /// The structure `name` in `module`.
    fn structure(&self, module: &Path, name: &str) -> Option<Structure> {
        if let Definition::Structure(structure) = self.definition(module, name)? { Some(structure) } else { None }
    }

    /// The fields of the structure `name`, those of structures without a name inside included.
    fn fields(&self, module: &Path, name: &str) -> Vec<Field> {
        let Some(structure) = self.structure(module, name) else { return Vec::new() };
        let offsets = self.offsets(module, &structure);
        let mut found = Vec::new();
        for ((member, ty), offset) in structure.fields.into_iter().zip(offsets) {
            let path = self.path_element(&member);
            if let Type::Named(inner) = &ty
                && let [inner] = inner.as_slice()
                && self.is_inner(inner, name)
            {
                let inside = self.fields(module, inner).into_iter();
                found.extend(inside.map(|field| Field {
                    path: format!("{path}.{}", field.path),
                    offset: offset + field.offset,
                    ty: field.ty,
                }));
            }
            found.push(Field { path, offset, ty });
        }
        found
    }

    /// Where the fields of `structure` start.
    fn offsets(&self, module: &Path, structure: &Structure) -> Vec<usize> {
        let mut next: usize = 0;
        let place = |(_, ty): &(String, Type)| {
            let layout = self.layout(module, ty);
            let aligned = next.next_multiple_of(layout.align.min(structure.packing));
            let offset = if structure.is_union { 0 } else { aligned };
            next = offset + layout.size;
            offset
        };
        structure.fields.iter().map(place).collect()
    }

    /// The layout of `ty`.
    fn layout(&self, module: &Path, ty: &Type) -> Layout {
        match ty {
            Type::Pointer(_) | Type::Function => Layout { size: 8, align: 8 },
            Type::Array(element, length) => {
                let element = self.layout(module, element);
                Layout { size: element.size * length, align: element.align }
            }
            Type::Named(path) => self.named_layout(module, path),
            Type::Other => panic!("{}: a type that is not understood", module.display()),
        }
    }

    /// The layout of the type that `path` leads to from `module`.
    fn named_layout(&self, module: &Path, path: &[String]) -> Layout {
        let (name, modules) = path.split_last().expect("a path has an element");
        let module = walk(module, modules);
        match self.definition(&module, name) {
            Some(Definition::Alias(ty)) => self.layout(&module, &ty),
            Some(Definition::Structure(structure)) => {
                let layouts: Vec<_> = structure.fields.iter().map(|(_, ty)| self.layout(&module, ty)).collect();
                let aligns = layouts.iter().map(|layout| layout.align.min(structure.packing));
                let align = aligns.max().unwrap_or(1).max(structure.align);
                let offsets = self.offsets(&module, &structure);
                let end = offsets.iter().zip(&layouts).map(|(offset, layout)| offset + layout.size).max().unwrap_or(0);
                Layout { size: end.next_multiple_of(align), align }
            }
            _ => primitive(name).unwrap_or_else(|| panic!("{}: no type {name}", module.display())),
        }
    }
}

fn walk(module: &Path, path: &[String]) -> PathBuf {
    let mut module = module.to_owned();
    for element in path {
        match element.as_str() {
            "self" => {}
            "super" => _ = module.pop(),
            element => module.push(element),
        }
    }
    module
}

/// Types that are Rust's, or of the core of windows-sys.
fn primitive(name: &str) -> Option<Layout> {
    let size = match name {
        "bool" | "i8" | "u8" | "c_char" | "c_schar" | "c_uchar" | "c_void" => 1,
        "i16" | "u16" | "c_short" | "c_ushort" => 2,
        "i32" | "u32" | "f32" | "c_int" | "c_uint" | "c_long" | "c_ulong" | "BOOL" | "HRESULT" => 4,
        "i64" | "u64" | "f64" | "isize" | "usize" | "c_longlong" | "c_ulonglong" | "PCSTR" | "PCWSTR" | "PSTR"
        | "PWSTR" => 8,
        "i128" | "u128" => 16,
        "GUID" => return Some(Layout { size: 16, align: 4 }),
        _ => return None,
    };
    Some(Layout { size, align: size })
}
