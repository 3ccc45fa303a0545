//! Builds the emulator once and runs calls in it. What a call means is not known here.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use device::{Arg, Call, KERNELS};

/// The memory of one call: `Arg::Memory(i)` is the i-th buffer.
#[derive(Default)]
pub(crate) struct Memory(Vec<Vec<u8>>);

impl Memory {
    pub(crate) fn f32(&mut self, values: &[f32]) -> usize {
        self.bytes(values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    pub(crate) fn u16(&mut self, values: &[u16]) -> usize {
        self.bytes(values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    pub(crate) fn u32(&mut self, values: &[u32]) -> usize {
        self.bytes(values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    pub(crate) fn bytes(&mut self, bytes: Vec<u8>) -> usize {
        self.0.push(bytes);
        self.0.len() - 1
    }

    pub(crate) fn read_f32(&self, buffer: usize) -> Vec<f32> {
        self.0[buffer].as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
    }

    pub(crate) fn read_f64(&self, buffer: usize) -> Vec<f64> {
        self.0[buffer].as_chunks().0.iter().map(|x| f64::from_le_bytes(*x)).collect()
    }

    pub(crate) fn read_u16(&self, buffer: usize) -> Vec<u16> {
        self.0[buffer].as_chunks().0.iter().map(|x| u16::from_le_bytes(*x)).collect()
    }

    pub(crate) fn read_u32(&self, buffer: usize) -> Vec<u32> {
        self.0[buffer].as_chunks().0.iter().map(|x| u32::from_le_bytes(*x)).collect()
    }

    /// Runs the call; the buffers are then as the kernel left them.
    pub(crate) fn run(&mut self, call: &Call<usize>) {
        let mut input = Vec::new();
        input.extend((self.0.len() as u64).to_le_bytes());
        for buffer in &self.0 {
            input.extend((buffer.len() as u64).to_le_bytes());
            input.extend(buffer);
        }
        for arg in &call.args {
            match arg {
                Arg::Memory(buffer) => tagged(&mut input, b'p', &(*buffer as u64).to_le_bytes()),
                Arg::Nothing => tagged(&mut input, b'p', &u64::MAX.to_le_bytes()),
                Arg::U32(x) => tagged(&mut input, b'u', &x.to_le_bytes()),
                Arg::U64(x) => tagged(&mut input, b'l', &x.to_le_bytes()),
                Arg::F32(x) => tagged(&mut input, b'f', &x.to_le_bytes()),
                Arg::F64(x) => tagged(&mut input, b'd', &x.to_le_bytes()),
            }
        }
        let mut child = Command::new(emulator())
            .arg(&call.kernel)
            .args([call.grid.0, call.grid.1, call.threads].map(|n| n.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the emulator starts");
        child.stdin.take().unwrap().write_all(&input).expect("the emulator reads its input");
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{} failed in the emulator", call.kernel);
        let mut rest = output.stdout.as_slice();
        for buffer in &mut self.0 {
            let (own, others) = rest.split_at(buffer.len());
            buffer.copy_from_slice(own);
            rest = others;
        }
        assert!(rest.is_empty(), "more came back than was given");
    }
}

fn tagged(input: &mut Vec<u8>, letter: u8, value: &[u8]) {
    input.push(letter);
    input.extend(value);
}

fn emulator() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kernels.cu"), KERNELS).unwrap();
        let path = dir.path().join("emulator");
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let software = own.join("software");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let status = Command::new(&compiler)
            .args(["-std=c++20", "-O1", "-Wall", "-Werror", "-I"])
            .arg(dir.path())
            .arg("-I")
            .arg(&software)
            .arg("-o")
            .arg(&path)
            .args([own.join("tests/kernels/emulator.cpp"), software.join("blocks.cpp")])
            .status()
            .unwrap_or_else(|e| panic!("cannot start {compiler} ({e}): install a C++ compiler"));
        assert!(status.success(), "{compiler} does not compile the kernels");
        (dir, path)
    });
    path
}
