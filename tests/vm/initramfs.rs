//! The first file system of a virtual machine: programs with the libraries that they need, in the
//! kernel's archive format (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// Files by their path, without the leading slash.
#[derive(Default)]
pub(crate) struct Initramfs {
    files: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Initramfs {
    pub(crate) fn add_folder(&mut self, path: &str) {
        self.add_parents(path);
        self.files.insert(path.to_owned(), (FOLDER, Vec::new()));
    }

    pub(crate) fn add_file(&mut self, path: &str, content: Vec<u8>, is_program: bool) {
        self.add_parents(path);
        self.files.insert(path.to_owned(), (if is_program { PROGRAM } else { FILE }, content));
    }

    /// A program of this machine's, without what only a debugger needs, and its shared libraries.
    pub(crate) fn add_program(&mut self, path: &str, program: &Path) {
        self.add_file(path, stripped(program), true);
        for library in libraries(program) {
            let name = library.to_string_lossy().trim_start_matches('/').to_owned();
            if !self.files.contains_key(&name) {
                let content = fs::read(&library).expect("a shared library");
                self.add_file(&name, content, true);
            }
        }
    }

    fn add_parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.files.entry(path[..at].to_owned()).or_insert((FOLDER, Vec::new()));
        }
    }

    /// All of it as a "newc" archive. Folders sort before what is in them.
    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (inode, (path, (mode, content))) in self.files.iter().enumerate() {
            append(&mut out, inode as u32 + 1, *mode, path, content);
        }
        append(&mut out, 0, 0, "TRAILER!!!", &[]);
        out
    }
}

fn append(out: &mut Vec<u8>, inode: u32, mode: u32, path: &str, content: &[u8]) {
    let len = u32::try_from(content.len()).expect("a file below 4 GiB");
    let name_len = u32::try_from(path.len() + 1).expect("a short path");
    let mut header = String::from("070701");
    // Inode, mode, owner, group, links, time, length, device (2), special device (2), name, check.
    for field in [inode, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len, 0] {
        header.push_str(&format!("{field:08x}"));
    }
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(content);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn stripped(program: &Path) -> Vec<u8> {
    let mut copy = std::env::temp_dir();
    copy.push(format!("ipop-vm-{}-{:?}", std::process::id(), std::thread::current().id()));
    // Without the tool the archive is larger and no less right.
    let status = Command::new("strip").arg("-o").arg(&copy).arg(program).status();
    let content = match status {
        Ok(status) if status.success() => fs::read(&copy),
        _ => fs::read(program),
    };
    // There may be none.
    let _ = fs::remove_file(&copy);
    content.unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// The shared libraries of a program and the loader, by `ldd`.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.lines().filter_map(|line| {
        let path = line.split_once("=> ").map_or(line, |(_, path)| path).trim();
        path.split_whitespace().next().filter(|path| path.starts_with('/')).map(PathBuf::from)
    });
    paths.collect()
}

/// A program of this machine's by its name.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

#[test]
fn an_archive_is_what_the_kernel_unpacks() {
    let mut files = Initramfs::default();
    files.add_file("a/b", b"hello".to_vec(), false);
    let archive = String::from_utf8(files.archive()).expect("text");
    let header = |mode: &str, len: &str, name_len: &str, inode: &str| {
        let zero = "00000000";
        format!("070701{inode}{mode}{zero}{zero}00000001{zero}{len}{zero}{zero}{zero}{zero}{name_len}{zero}")
    };
    let folder = header("000041ed", "00000000", "00000002", "00000001") + "a\0";
    let file = header("000081a4", "00000005", "00000004", "00000002") + "a/b\0\0\0hello\0\0\0";
    let trailer = header("00000000", "00000000", "0000000b", "00000000") + "TRAILER!!!\0\0\0\0";
    assert_eq!(archive, folder + &file + &trailer);
}
