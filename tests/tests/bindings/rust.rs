//! What the test reads of Rust source: types, structures and integers.

use std::path::Path;

use syn::{Attribute, Expr, Field, GenericArgument, Item, Lit, PathArguments, UnOp, UseTree, punctuated};

use crate::layout::{Definition, Structure};

/// A type, as far as its layout goes.
#[derive(Clone, Debug)]
pub enum Type {
    /// A pointer to another.
    Pointer(Box<Self>),
    /// A pointer to a function.
    Function,
    /// An array.
    Array(Box<Self>, usize),
    /// One by name, with the modules before it.
    Named(Vec<String>),
    /// Anything else.
    Other,
}

impl From<&syn::Type> for Type {
    fn from(ty: &syn::Type) -> Self {
        match ty {
            syn::Type::Ptr(pointer) => Self::Pointer(Box::new((&*pointer.elem).into())),
            syn::Type::BareFn(_) => Self::Function,
            syn::Type::Array(array) => {
                let length = integer(&array.len).and_then(|length| usize::try_from(length).ok());
                length.map_or(Self::Other, |length| Self::Array(Box::new((&*array.elem).into()), length))
            }
            syn::Type::Path(path) => named(&path.path),
            _ => Self::Other,
        }
    }
}

fn named(path: &syn::Path) -> Type {
    let argument = path.segments.last().and_then(|last| match &last.arguments {
        PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
            Some(GenericArgument::Type(argument)) => Some((last.ident.to_string(), Type::from(argument))),
            _ => None,
        },
        _ => None,
    });
    match argument {
        Some((name, inner)) if name == "__IncompleteArrayField" => Type::Array(Box::new(inner), 0),
        // An option of a pointer, or bindgen's unit of bit fields: laid out as what is inside.
        Some((_, inner)) => inner,
        None => Type::Named(path.segments.iter().map(|segment| segment.ident.to_string()).collect()),
    }
}

/// The items of a source file.
pub fn items(path: &Path) -> Vec<Item> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())).items
}

/// The name that `item` defines, and what it stands for.
pub fn definition(item: &Item) -> Option<(String, Definition)> {
    let (name, attributes, definition) = match item {
        Item::Struct(item) => (&item.ident, &item.attrs, structure(false, &item.attrs, item.fields.iter())),
        Item::Union(item) => (&item.ident, &item.attrs, structure(true, &item.attrs, item.fields.named.iter())),
        Item::Type(item) => (&item.ident, &item.attrs, Definition::Alias((&*item.ty).into())),
        Item::Const(item) => {
            let value = match (integer(&item.expr), &*item.expr) {
                (Some(value), _) => Definition::Constant(value),
                (None, Expr::Path(path)) => Definition::SameAs(path.path.segments.last()?.ident.to_string()),
                _ => return None,
            };
            (&item.ident, &item.attrs, value)
        }
        Item::Use(item) => {
            let (path, name) = renamed(&item.tree)?;
            return Some((name, Definition::Alias(Type::Named(path))));
        }
        _ => return None,
    };
    attributes.iter().all(is_for_x64).then(|| (name.to_string(), definition))
}

/// The path and the new name of `path as name`.
fn renamed(tree: &UseTree) -> Option<(Vec<String>, String)> {
    match tree {
        UseTree::Path(path) => {
            let (mut rest, name) = renamed(&path.tree)?;
            rest.insert(0, path.ident.to_string());
            Some((rest, name))
        }
        UseTree::Rename(rename) => Some((vec![rename.ident.to_string()], rename.rename.to_string())),
        _ => None,
    }
}

fn is_for_x64(attribute: &Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else { return true };
    let condition = list.tokens.to_string();
    !list.path.is_ident("cfg") || !condition.contains("target_arch") || condition.contains("x86_64")
}

fn structure(is_union: bool, attributes: &[Attribute], fields: punctuated::Iter<Field>) -> Definition {
    let fields = fields.filter_map(|field| Some((field.ident.as_ref()?.to_string(), (&field.ty).into())));
    let fields = fields.map(|(name, ty)| (name.trim_start_matches("r#").to_owned(), ty)).collect();
    let packing = representation(attributes, "packed").unwrap_or(usize::MAX);
    let align = representation(attributes, "align").unwrap_or(1);
    Definition::Structure(Structure { is_union, packing, align, fields })
}

/// The N of `repr(WHAT(N))`, which is 1 in `repr(WHAT)`.
fn representation(attributes: &[Attribute], what: &str) -> Option<usize> {
    let representations = attributes.iter().filter(|attribute| attribute.path().is_ident("repr"));
    representations.filter_map(|attribute| attribute.meta.require_list().ok()).find_map(|list| {
        let text = list.tokens.to_string().replace(' ', "");
        let (_, rest) = text.split_once(what)?;
        let number = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        number.map_or(Some(1), |(number, _)| number.parse().ok())
    })
}

/// The value of a literal, with its sign and casts.
pub fn integer(expr: &Expr) -> Option<i128> {
    match expr {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Int(value) => value.base10_parse().ok(),
            _ => None,
        },
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => integer(&unary.expr).map(|value| -value),
        Expr::Cast(cast) => integer(&cast.expr),
        Expr::Paren(inner) => integer(&inner.expr),
        Expr::Group(inner) => integer(&inner.expr),
        _ => None,
    }
}
