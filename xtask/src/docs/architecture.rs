//! The drawings and tables of `docs/architecture.md`: packages from cargo's metadata, the driver's modules from its sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::iter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use proc_macro2::{TokenStream, TokenTree};
use syn::Item;

use super::drawing::{Edges, Orientation, svg, without_shortcuts};
use super::source::{doc, parse};
use crate::metadata::{Metadata, Package};

const WINDOWS: u32 = 0xDDEB_FFFF;
const HOST: u32 = 0xFFF1_D6FF;
const MODULE: u32 = 0xE4F3_E4FF;
/// The driver's crate root, among its modules.
const ROOT: &str = "lib";

/// The page, with its tables as the sources are.
pub fn document(root: &Path) -> Result<String> {
    let path = root.join("docs/architecture.md");
    let mut text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    for (name, table) in [("packages", packages_table(root)?), ("modules", modules_table(root)?)] {
        let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let (before, rest) = text.split_once(&start).with_context(|| format!("there is no {start}"))?;
        let (_, after) = rest.split_once(&end).with_context(|| format!("there is no {end}"))?;
        text = format!("{before}{start}{table}{end}{after}");
    }
    Ok(text)
}

/// The packages, and what each depends on to run.
pub fn packages_svg(_: &Path) -> Result<String> {
    let metadata = Metadata::read()?;
    let names: BTreeSet<_> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let edges: Edges = metadata
        .packages
        .iter()
        .flat_map(|package| package.dependencies.iter().map(move |dependency| (package, dependency)))
        .filter(|(_, dependency)| dependency.kind.is_none() && names.contains(dependency.name.as_str()))
        .map(|(package, dependency)| (package.name.clone(), dependency.name.clone()))
        .collect();
    let fill = |package: &Package| if metadata.is_for_host(package) { HOST } else { WINDOWS };
    let linked = |package: &&Package| edges.iter().any(|(from, to)| [from, to].contains(&&package.name));
    let drawn = metadata.packages.iter().filter(linked);
    let boxes: Vec<_> = drawn.map(|package| (package.name.clone(), fill(package))).collect();
    Ok(svg(&boxes, &without_shortcuts(&edges), Orientation::LeftToRight))
}

fn packages_table(root: &Path) -> Result<String> {
    let mut rows = String::from("| package | where | what |\n|---|---|---|\n");
    for package in Metadata::read()?.packages {
        let folder = package.folder().strip_prefix(root).map(Path::to_path_buf)?;
        let place = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        let what = package.description.with_context(|| format!("{} has no description", package.name))?;
        let place = place.display();
        writeln!(rows, "| `{}` | [`{place}`](../{place}) | {what} |", package.name)?;
    }
    Ok(rows)
}

/// The driver's modules, in the order of its crate root, with the first line of what each says of itself.
fn modules(root: &Path) -> Result<Vec<(String, PathBuf, String)>> {
    let map = parse(root, "src/lib.rs")?;
    let names = map.items.iter().filter_map(|item| match item {
        Item::Mod(module) if module.content.is_none() => Some(module.ident.to_string()),
        _ => None,
    });
    let described = iter::once(ROOT.to_owned()).chain(names).map(|name| {
        let path =
            [format!("src/{name}.rs"), format!("src/{name}/mod.rs")].into_iter().find(|path| root.join(path).exists());
        let path = path.with_context(|| format!("there is no module {name}"))?;
        let text = doc(&parse(root, &path)?.attrs);
        let sentence = text.split("\n\n").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(!sentence.is_empty(), "{path} does not say what it is");
        Ok((name, path.into(), sentence))
    });
    described.collect()
}

fn modules_table(root: &Path) -> Result<String> {
    let mut rows = String::from("| module | what it says of itself |\n|---|---|\n");
    for (name, path, sentence) in modules(root)? {
        let sentence = sentence.replace("[`", "`").replace("`]", "`");
        writeln!(rows, "| [`{name}`](../{}) | {sentence} |", path.display())?;
    }
    Ok(rows)
}

/// The driver's modules, and which uses which, one step further from the crate root: what is used back towards the root, or as far from it, has
/// no arrow.
pub fn driver_svg(root: &Path) -> Result<String> {
    let modules: Vec<_> = modules(root)?.into_iter().map(|(name, ..)| name).collect();
    let mut uses = BTreeMap::new();
    for module in &modules {
        uses.insert(module.clone(), used_by(root, module, &modules)?);
    }
    let depths = depths(&uses);
    let is_further = |from: &str, to: &str| depths.get(from).map(|depth| depth + 1) == depths.get(to).copied();
    let edges = uses.iter().flat_map(|(from, to)| to.iter().map(move |to| (from.clone(), to.clone())));
    let edges: Edges = edges.filter(|(from, to)| is_further(from, to)).collect();
    let boxes: Vec<_> = modules.into_iter().map(|module| (module, MODULE)).collect();
    Ok(svg(&boxes, &edges, Orientation::TopToBottom))
}

/// How many steps of use each module is from the crate root.
fn depths(uses: &BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, usize> {
    let mut depths = BTreeMap::from([(ROOT.to_owned(), 0)]);
    let mut level = vec![ROOT.to_owned()];
    for depth in 1..=uses.len() {
        let next: BTreeSet<_> = level.iter().filter_map(|module| uses.get(module)).flatten().cloned().collect();
        level = next.into_iter().filter(|module| !depths.contains_key(module)).collect();
        depths.extend(level.iter().map(|module| (module.clone(), depth)));
    }
    depths
}

/// The modules that `module` names.
fn used_by(root: &Path, module: &str, modules: &[String]) -> Result<BTreeSet<String>> {
    let mut next = vec![root.join("src").join(format!("{module}.rs")), root.join("src").join(module)];
    let mut used = BTreeSet::new();
    while let Some(path) = next.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path)?.collect::<Result<Vec<_>, _>>()?;
            next.extend(entries.into_iter().map(|entry| entry.path()));
        }
        // A module is a file, or a folder, or both.
        if !path.is_file() {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let tokens = text.parse::<TokenStream>().map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        collect(tokens, module == ROOT, &mut used);
    }
    used.retain(|name| modules.contains(name) && name != module);
    Ok(used)
}

/// The names behind `crate::`, one by one or in braces; in the crate root those that begin a path.
fn collect(tokens: TokenStream, in_root: bool, found: &mut BTreeSet<String>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let is_colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(mark)) if mark.as_char() == ':');
    for (index, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => collect(group.stream(), in_root, found),
            TokenTree::Ident(name) if is_colon(tokens.get(index + 1)) && is_colon(tokens.get(index + 2)) => {
                if name == "crate" {
                    found.extend(first_names(tokens.get(index + 3)));
                } else if in_root && !(index > 0 && is_colon(tokens.get(index - 1))) {
                    found.insert(name.to_string());
                }
            }
            _ => {}
        }
    }
}

/// A name, or those in braces that begin a path.
fn first_names(token: Option<&TokenTree>) -> Vec<String> {
    match token {
        Some(TokenTree::Ident(name)) => vec![name.to_string()],
        Some(TokenTree::Group(group)) => {
            let tokens: Vec<_> = group.stream().into_iter().collect();
            let begins = tokens.split(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ','));
            begins.filter_map(|path| path.first()).map(ToString::to_string).collect()
        }
        _ => Vec::new(),
    }
}
