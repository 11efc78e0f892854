//! What bindgen made of the headers. It asserts the offsets and sizes that libclang computed; the compiler has checked them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::{Expr, Item, Lit, Stmt};

use crate::layout::{Definition, Definitions, Field};
use crate::rust::{self, Type};

/// The bindings.
#[derive(Default)]
pub struct Generated {
    /// By module, which is the name of an enumeration or empty.
    definitions: BTreeMap<String, BTreeMap<String, Definition>>,
    /// The asserted offsets, by `structure::field`.
    pub offsets: BTreeMap<String, usize>,
    /// The asserted sizes.
    pub sizes: BTreeMap<String, usize>,
}

impl Generated {
    /// Reads the bindings in `directory`.
    pub fn read(directory: &Path) -> Self {
        let mut read = Self::default();
        for file in ["types.rs", "constants.rs"] {
            for item in &rust::items(&directory.join(file)) {
                read.add("", item);
            }
        }
        read
    }

    fn add(&mut self, module: &str, item: &Item) {
        match item {
            Item::Const(item) if item.ident == "_" => self.add_assertions(&item.expr),
            Item::Mod(item) => {
                for inside in item.content.iter().flat_map(|(_, items)| items) {
                    self.add(&item.ident.to_string(), inside);
                }
            }
            item => self.definitions.entry(module.to_owned()).or_default().extend(rust::definition(item)),
        }
    }

    /// Takes up a block of `["Offset of field: S::f"][offset_of!(S, f) - 8usize];` and the like.
    fn add_assertions(&mut self, expr: &Expr) {
        let Expr::Block(block) = expr else { return };
        for (what, value) in block.block.stmts.iter().filter_map(assertion) {
            if let Some(field) = what.strip_prefix("Offset of field: ") {
                self.offsets.insert(field.to_owned(), value);
            } else if let Some(structure) = what.strip_prefix("Size of ") {
                self.sizes.insert(structure.to_owned(), value);
            }
        }
    }

    /// The fields of the structure `name`.
    pub fn fields_of(&self, name: &str) -> Vec<Field> {
        self.fields(Path::new(""), name)
    }

    /// The structures with a name that the type `name` is, holds or points to.
    pub fn structures_behind(&self, name: &str) -> Vec<String> {
        match self.definition(Path::new(""), name) {
            Some(Definition::Structure(_)) if self.sizes.contains_key(name) && !name.contains("__bindgen_ty_") => {
                vec![name.to_owned()]
            }
            Some(Definition::Alias(ty)) => self.structures_in(&ty),
            _ => Vec::new(),
        }
    }

    /// The structures with a name that `ty` is, holds or points to.
    pub fn structures_in(&self, ty: &Type) -> Vec<String> {
        match ty {
            Type::Pointer(inner) | Type::Array(inner, _) => self.structures_in(inner),
            Type::Named(path) => path.last().map(|name| self.structures_behind(name)).unwrap_or_default(),
            Type::Function | Type::Other => Vec::new(),
        }
    }

    /// The integers among `used`; an enumerator counts when its enumeration is there too.
    pub fn constants<'a>(&'a self, used: &'a BTreeSet<String>) -> impl Iterator<Item = (&'a str, i128)> {
        let is_used =
            |name: &str| name.is_empty() || used.contains(name) || used.contains(name.trim_start_matches('_'));
        let modules = self.definitions.iter().filter(move |(name, _)| is_used(name));
        modules.flat_map(|(_, module)| module).filter_map(|(name, definition)| match definition {
            Definition::Constant(value) if used.contains(name) => Some((name.as_str(), *value)),
            _ => None,
        })
    }
}

impl Definitions for Generated {
    fn definition(&self, module: &Path, name: &str) -> Option<Definition> {
        self.definitions.get(module.to_str()?)?.get(name).cloned()
    }

    fn is_inner(&self, inner: &str, outer: &str) -> bool {
        inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with("__bindgen_ty_"))
    }

    fn path_element(&self, name: &str) -> String {
        name.strip_prefix("__bindgen_anon_").map_or_else(|| name.to_owned(), |number| format!("~{number}"))
    }
}

/// What a statement of a block of assertions asserts, and the number it asserts.
fn assertion(statement: &Stmt) -> Option<(String, usize)> {
    let Stmt::Expr(Expr::Index(index), _) = statement else { return None };
    let (Expr::Array(what), Expr::Binary(difference)) = (&*index.expr, &*index.index) else { return None };
    let Some(Expr::Lit(what)) = what.elems.first() else { return None };
    let Lit::Str(what) = &what.lit else { return None };
    Some((what.value(), usize::try_from(rust::integer(&difference.right)?).ok()?))
}
