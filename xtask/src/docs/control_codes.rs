//! `docs/control-codes.md`, from crates/abi.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use syn::{Expr, Item, ItemConst, ItemEnum, Lit, Visibility};

use super::source::{Structure, doc, parse};

const FRONT: &str = "\
# Control codes

<!-- Generated from crates/abi by `cargo xtask docs`; what is to be changed is changed there. -->

";

/// Bits 14 and 15 of a control code, by the name of the access that they ask for.
const ACCESS: [(&str, u32, &str); 3] =
    [("FILE_ANY_ACCESS", 0, "any handle"), ("FILE_READ_ACCESS", 1, "read"), ("FILE_WRITE_ACCESS", 2, "write")];

/// What crates/abi defines, in the order of the sources.
#[derive(Default)]
pub struct Abi {
    front: String,
    pub device_type: Option<u32>,
    pub codes: Vec<Code>,
    pub constants: Vec<Constant>,
    pub structures: Vec<Structure>,
    pub enumerations: Vec<Enumeration>,
}

pub struct Code {
    pub name: String,
    doc: String,
    pub function: u32,
    pub access: String,
}

pub struct Constant {
    pub name: String,
    doc: String,
    /// The integers that it consists of: one, or the fields of a `GUID`.
    pub numbers: Vec<u32>,
}

/// Numbers with names: an enumeration, or a module of constants.
pub struct Enumeration {
    pub name: String,
    doc: String,
    /// Each with its name and what it means.
    pub values: Vec<(u32, String, String)>,
}

/// The document.
///
/// # Errors
///
/// crates/abi cannot be read, or does not look as expected.
pub fn document(root: &Path) -> Result<String> {
    Abi::read(root)?.render()
}

impl Abi {
    /// Reads crates/abi.
    pub fn read(root: &Path) -> Result<Self> {
        let mut abi = Self::default();
        for path in ["crates/abi/src/lib.rs", "crates/abi/src/event.rs"] {
            let file = parse(root, path)?;
            if abi.front.is_empty() {
                abi.front = doc(&file.attrs);
            }
            for item in &file.items {
                abi.add(item).with_context(|| path.to_owned())?;
            }
        }
        Ok(abi)
    }

    fn add(&mut self, item: &Item) -> Result<()> {
        match item {
            Item::Const(constant) if constant.ident == "DEVICE_TYPE" => {
                self.device_type = Some(number(&constant.expr)?);
            }
            Item::Const(constant) if is_public(&constant.vis) => self.add_constant(constant)?,
            Item::Mod(module) if is_public(&module.vis) => {
                let items = module.content.as_ref().map(|(_, items)| items.as_slice()).unwrap_or_default();
                let values = items.iter().filter_map(|item| match item {
                    Item::Const(constant) => {
                        Some(number(&constant.expr).map(|n| (n, constant.ident.to_string(), doc(&constant.attrs))))
                    }
                    _ => None,
                });
                let values = values.collect::<Result<_>>()?;
                self.enumerations.push(Enumeration { name: module.ident.to_string(), doc: doc(&module.attrs), values });
            }
            Item::Macro(call) if call.mac.path.is_ident("wire") => self.structures.push(call.mac.parse_body()?),
            Item::Macro(call) if call.mac.path.is_ident("codes") => {
                self.enumerations.push(enumeration(&call.mac.parse_body()?)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn add_constant(&mut self, constant: &ItemConst) -> Result<()> {
        let name = constant.ident.to_string();
        let doc = doc(&constant.attrs);
        let Expr::Call(call) = &*constant.expr else {
            self.constants.push(Constant { name, doc, numbers: numbers(&constant.expr)? });
            return Ok(());
        };
        let [function, Expr::Path(access)] = [&call.args[0], &call.args[1]] else {
            bail!("{name} is not control_code(number, access)");
        };
        let access = access.path.require_ident()?.to_string();
        self.codes.push(Code { name, doc, function: number(function)?, access });
        Ok(())
    }

    fn render(&self) -> Result<String> {
        let links = self.links();
        let mut text = String::from(FRONT);
        let front = self.front.lines().map(|line| if line.starts_with('#') { format!("#{line}") } else { line.into() });
        paragraph(&mut text, &front.collect::<Vec<_>>().join("\n"), &links)?;
        self.render_codes(&mut text, &links)?;
        writeln!(text, "## Constants\n")?;
        for Constant { name, doc, .. } in &self.constants {
            writeln!(text, "### `{name}`\n")?;
            paragraph(&mut text, doc, &links)?;
        }
        writeln!(text, "## Structures\n")?;
        for structure in &self.structures {
            render_structure(&mut text, structure, &links)?;
        }
        writeln!(text, "## Numbers with names\n")?;
        for enumeration in &self.enumerations {
            writeln!(text, "### `{}`\n", enumeration.name)?;
            paragraph(&mut text, &enumeration.doc, &links)?;
            writeln!(text, "| value | name | meaning |\n|---|---|---|")?;
            for (value, name, doc) in &enumeration.values {
                writeln!(text, "| {value} | `{name}` | {} |", linked(&one_line(doc), &links))?;
            }
            writeln!(text)?;
        }
        Ok(format!("{}\n", text.trim_end()))
    }

    fn render_codes(&self, text: &mut String, links: &BTreeMap<String, String>) -> Result<()> {
        let device_type = self.device_type.context("there is no DEVICE_TYPE")?;
        writeln!(text, "## Codes\n\n| code | value | function | access |\n|---|---|---|---|")?;
        for Code { name, function, access, .. } in &self.codes {
            let known = ACCESS.iter().find(|(known, ..)| known == access);
            let (_, bits, words) = known.with_context(|| format!("{name} asks for the unknown access {access}"))?;
            let value = device_type << 16 | bits << 14 | function << 2;
            writeln!(text, "| [`{name}`](#{}) | {value:#010X} | {function:#X} | {words} |", name.to_lowercase())?;
        }
        writeln!(text, "\nAll of them have device type {device_type:#X} and `METHOD_BUFFERED`.\n")?;
        for Code { name, doc, .. } in &self.codes {
            writeln!(text, "### `{name}`\n")?;
            paragraph(text, doc, links)?;
        }
        Ok(())
    }

    /// The headings that can be linked to, by the name that doc comments use.
    fn links(&self) -> BTreeMap<String, String> {
        let names = self.codes.iter().map(|code| code.name.clone());
        let names = names.chain(self.constants.iter().map(|constant| constant.name.clone()));
        let names = names.chain(self.structures.iter().map(|structure| structure.name.to_string()));
        let names = names.chain(self.enumerations.iter().map(|enumeration| enumeration.name.clone()));
        names.map(|name| (name.clone(), name.to_lowercase())).collect()
    }
}

const fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// The integers of a literal, or of a tuple or an array of such.
fn numbers(expression: &Expr) -> Result<Vec<u32>> {
    let elements = match expression {
        Expr::Tuple(tuple) => &tuple.elems,
        Expr::Array(array) => &array.elems,
        literal => return Ok(vec![number(literal)?]),
    };
    let parts = elements.iter().map(numbers).collect::<Result<Vec<_>>>()?;
    Ok(parts.concat())
}

fn number(expression: &Expr) -> Result<u32> {
    match expression {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Int(number) => Ok(number.base10_parse()?),
            _ => bail!("not an integer"),
        },
        _ => bail!("not a literal"),
    }
}

fn enumeration(item: &ItemEnum) -> Result<Enumeration> {
    let values = item.variants.iter().map(|variant| {
        let (_, value) = variant.discriminant.as_ref().with_context(|| format!("{} has no value", variant.ident))?;
        Ok((number(value)?, variant.ident.to_string(), doc(&variant.attrs)))
    });
    Ok(Enumeration { name: item.ident.to_string(), doc: doc(&item.attrs), values: values.collect::<Result<_>>()? })
}

fn render_structure(text: &mut String, structure: &Structure, links: &BTreeMap<String, String>) -> Result<()> {
    writeln!(text, "### `{}`\n", structure.name)?;
    paragraph(text, &structure.doc, links)?;
    writeln!(text, "{} bytes.\n\n| offset | field | type | meaning |\n|---|---|---|---|", structure.size)?;
    let mut offset = 0;
    for field in &structure.fields {
        let meaning = linked(&one_line(&field.doc), links);
        writeln!(text, "| {offset} | `{}` | {} | {meaning} |", field.name, field.kind)?;
        let bits: u32 = field.kind.to_string().trim_start_matches(['u', 'i']).parse()?;
        offset += bits / 8;
    }
    ensure!(offset == structure.size, "{} has {offset} bytes of {}", structure.name, structure.size);
    writeln!(text)?;
    Ok(())
}

fn paragraph(text: &mut String, doc: &str, links: &BTreeMap<String, String>) -> Result<()> {
    writeln!(text, "{}\n", linked(doc.trim(), links))?;
    Ok(())
}

fn one_line(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Turns rustdoc's links, `[Name]` and `[Name::field]`, into links to headings, and what has no heading into its name.
fn linked(doc: &str, links: &BTreeMap<String, String>) -> String {
    let mut pieces = doc.split("[`");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let Some((name, rest)) = piece.split_once("`]") else {
            text.push_str("[`");
            text.push_str(piece);
            continue;
        };
        let anchor = links.get(name.split("::").next().unwrap_or_default());
        text.push_str(&anchor.map_or_else(|| format!("`{name}`"), |anchor| format!("[`{name}`](#{anchor})")));
        text.push_str(rest);
    }
    text
}
