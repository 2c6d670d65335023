//! Kernels compiled by the machine's own NVRTC, for builds that embed none.

use std::ffi::{CString, c_char, c_int};
use std::ptr::null_mut;

use cudarc::nvrtc::{result, sys};

use crate::backend::cuda::code::{FLAGS, HEADERS, SOURCES};

/// Whether libnvrtc.so.12 can be opened.
pub(super) fn is_present() -> bool {
    // SAFETY: opens the library by its system names and calls nothing in it.
    unsafe { sys::is_culib_present() }
}

/// Machine code of one source, or NVRTC's log.
pub(super) fn compile(source: &str, architecture: u32) -> Result<Vec<u8>, String> {
    let file = format!("{source}.cu");
    let text = SOURCES.iter().find(|(name, _)| *name == file).map(|(_, text)| *text).ok_or_else(|| format!("no source {file}"))?;
    let c_string = |text: &str| CString::new(text).map_err(|_| format!("{file} holds a zero byte"));
    let (text, name) = (c_string(text)?, c_string(&file)?);
    let texts = HEADERS.iter().map(|(_, text)| c_string(text)).collect::<Result<Vec<_>, _>>()?;
    let names = HEADERS.iter().map(|(name, _)| c_string(name)).collect::<Result<Vec<_>, _>>()?;
    let pointers = |of: &[CString]| of.iter().map(|text| text.as_ptr()).collect::<Vec<*const c_char>>();
    let (texts_at, names_at) = (pointers(&texts), pointers(&names));
    let options: Vec<String> =
        FLAGS.iter().map(|flag| (*flag).to_owned()).chain([format!("--gpu-architecture=sm_{architecture}")]).collect();

    let mut program: sys::nvrtcProgram = null_mut();
    let headers = HEADERS.len() as c_int;
    let said = |error: result::NvrtcError| format!("NVRTC could not compile {file}: {error:?}");
    // SAFETY: all strings end with zero and outlive the program; each call's result is checked before the next one, and the program
    // is destroyed once.
    unsafe {
        sys::nvrtcCreateProgram(&mut program, text.as_ptr(), name.as_ptr(), headers, texts_at.as_ptr(), names_at.as_ptr())
            .result()
            .map_err(said)?;
        let compiled = result::compile_program(program, &options);
        let code = match compiled {
            Ok(()) => cubin(program).map_err(said),
            Err(error) => {
                let log = result::get_program_log(program).unwrap_or_default();
                let log: Vec<u8> = log.into_iter().map(|byte| byte as u8).take_while(|byte| *byte != 0).collect();
                Err(format!("{}\n{}", said(error), String::from_utf8_lossy(&log)))
            }
        };
        let _ = result::destroy_program(program);
        code
    }
}

/// # Safety
/// `program` was compiled for a real architecture.
unsafe fn cubin(program: sys::nvrtcProgram) -> Result<Vec<u8>, result::NvrtcError> {
    let mut bytes = 0;
    // SAFETY: by the caller; the buffer has the length that NVRTC asks for.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &mut bytes).result()?;
        let mut code = vec![0u8; bytes];
        sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
        Ok(code)
    }
}
