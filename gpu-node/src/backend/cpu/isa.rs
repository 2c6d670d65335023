//! One generic function, compiled for each instruction set and chosen at run time.

/// `unsafe fn NAME(isa, ARGS)` that calls `GENERIC::<L>(ARGS)` for the [`Lanes`](super::lanes::Lanes) of `isa`. The safety rule of
/// both: `isa` is available, and whatever the generic function asks for.
macro_rules! dispatch {
    ($(#[$doc:meta])* $vis:vis unsafe fn $name:ident = $generic:ident($($arg:ident: $type:ty),* $(,)?)) => {
        $(#[$doc])*
        $vis unsafe fn $name(isa: $crate::backend::cpu::lanes::Isa, $($arg: $type),*) {
            use $crate::backend::cpu::lanes::{Isa, Scalar};
            #[cfg(target_arch = "x86_64")]
            use $crate::backend::cpu::lanes::{Avx2, Avx512, AvxVnni};
            #[cfg(target_arch = "aarch64")]
            use $crate::backend::cpu::lanes::{Neon, NeonDot};

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $type),*) {
                // SAFETY: passed on.
                unsafe { $generic::<Avx2>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avxvnni,avx2,fma,f16c")]
            unsafe fn avx_vnni($($arg: $type),*) {
                // SAFETY: passed on.
                unsafe { $generic::<AvxVnni>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vnni,avx2,fma,f16c")]
            unsafe fn avx512($($arg: $type),*) {
                // SAFETY: passed on.
                unsafe { $generic::<Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon")]
            unsafe fn neon($($arg: $type),*) {
                // SAFETY: passed on.
                unsafe { $generic::<Neon>($($arg),*) }
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon,dotprod")]
            unsafe fn neon_dot($($arg: $type),*) {
                // SAFETY: passed on.
                unsafe { $generic::<NeonDot>($($arg),*) }
            }
            // SAFETY: the caller promises the instruction set and the rest.
            unsafe {
                match isa {
                    Isa::Scalar => $generic::<Scalar>($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => avx2($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    Isa::AvxVnni => avx_vnni($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "aarch64")]
                    Isa::Neon => neon($($arg),*),
                    #[cfg(target_arch = "aarch64")]
                    Isa::NeonDot => neon_dot($($arg),*),
                }
            }
        }
    };
}

pub(super) use dispatch;
