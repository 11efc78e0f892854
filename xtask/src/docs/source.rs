//! Rust sources as what they define.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Expr, ExprLit, Ident, Lit, LitInt, Meta, Token, Type, Visibility, braced};

/// Parses a file of the repository.
///
/// # Errors
///
/// It cannot be read, or is not Rust.
pub fn parse(root: &Path, path: &str) -> Result<syn::File> {
    let text = fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"))?;
    syn::parse_file(&text).with_context(|| format!("parsing {path}"))
}

/// The text of doc comments.
pub fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    lines.map(|line| line.strip_prefix(' ').unwrap_or(&line).to_owned()).collect::<Vec<_>>().join("\n")
}

/// What `wire!` of hotadd-abi defines: a structure without padding.
pub struct Structure {
    /// Its name.
    pub name: Ident,
    /// What it is.
    pub doc: String,
    /// How many bytes it has.
    pub size: u32,
    /// Its fields, in order.
    pub fields: Vec<Field>,
}

/// A field of a [`Structure`].
pub struct Field {
    /// Its name.
    pub name: Ident,
    /// What it means.
    pub doc: String,
    /// An integer's type.
    pub kind: Ident,
}

impl Parse for Structure {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let doc = doc(&input.call(Attribute::parse_outer)?);
        input.parse::<Visibility>()?;
        input.parse::<Token![struct]>()?;
        let name = input.parse()?;
        input.parse::<Token![:]>()?;
        let size = input.parse::<LitInt>()?.base10_parse()?;
        let body;
        braced!(body in input);
        let fields = body.parse_terminated(Field::parse, Token![,])?.into_iter().collect();
        Ok(Self { name, doc, size, fields })
    }
}

impl Parse for Field {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut doc = doc(&input.call(Attribute::parse_outer)?);
        if input.parse::<Option<Token![@]>>()?.is_some() {
            input.parse::<Ident>()?;
            "Reserved: zero.".clone_into(&mut doc);
        }
        input.parse::<Visibility>()?;
        let name = input.parse()?;
        input.parse::<Token![:]>()?;
        let Type::Path(kind) = input.parse()? else { return Err(input.error("the type of a field is an integer")) };
        Ok(Self { name, doc, kind: kind.path.require_ident()?.clone() })
    }
}
