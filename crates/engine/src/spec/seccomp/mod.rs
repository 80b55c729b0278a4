//! Which system calls a container may make.
//!
//! A profile (Docker's format, [`profile`]) is resolved for one container's capabilities, this
//! architecture and kernel; the engine's own is in [`builtin`]. A profile that an image carries
//! can take away from it ([`narrow`]). Where the runtime takes it, the filter is compiled here
//! ([`bpf`]).

mod bpf;
mod builtin;
mod intervals;
mod narrow;
mod profile;

use oci_spec::runtime::{Arch, LinuxSeccomp};

use self::profile::{Facts, Profile};
use super::{
    explain::{Notes, Origin},
    host::HostFacts,
    place::ImageSecurity,
    process::Given,
    security::{MAX_PROFILE, SECCOMP_LABEL, Seccomp},
};
use crate::error::{Error, Kind, Result};

/// The filter of a container; `None` for none.
pub(super) fn assemble(
    given: &Given<'_>,
    mode: ImageSecurity,
    notes: &mut Notes,
    warnings: &mut Vec<String>,
) -> Result<Option<LinuxSeccomp>> {
    let facts = Facts {
        caps: given.caps,
        arch: &given.host.arch,
        kernel: given.host.kernel,
    };
    let privileged = given.request.host_config.privileged;
    let flag = "--security-opt seccomp";
    match &given.options.seccomp {
        Seccomp::Unconfined => {
            notes.set("linux.seccomp", Origin::User, flag);
            return Ok(None);
        }
        Seccomp::Profile(text) => {
            notes.set("linux.seccomp", Origin::Profile, flag);
            let profile = Profile::parse(text)
                .map_err(|e| e.context("the profile of --security-opt seccomp"))?;
            return profile.resolve(&facts).map(Some);
        }
        // Docker gives a privileged container no filter unless it is told to.
        Seccomp::Unsaid if privileged => return Ok(None),
        Seccomp::Builtin => {
            notes.set("linux.seccomp", Origin::User, flag);
            return own(&facts, given.host.x32).map(Some);
        }
        Seccomp::Unsaid => {}
    }
    notes.set("linux.seccomp", Origin::Default, "");
    let own = own(&facts, given.host.x32)?;
    let label = given.image.labels.get(SECCOMP_LABEL);
    let Some(text) = label.filter(|_| mode != ImageSecurity::Ignore) else {
        return Ok(Some(own));
    };
    let theirs = from_label(text, &facts)
        .map_err(|e| e.context(format!("the image's label {SECCOMP_LABEL}")))?;
    notes.set("linux.seccomp", Origin::Label, SECCOMP_LABEL);
    if mode == ImageSecurity::Replace {
        return Ok(Some(theirs));
    }
    let narrowed = narrow::both(&own, &theirs)?;
    let lost = narrow::refused_here(&own, &theirs);
    if !lost.is_empty() {
        let some: Vec<&str> = lost.iter().take(5).map(String::as_str).collect();
        let more = if lost.len() > some.len() { ", …" } else { "" };
        warnings.push(format!(
            "the image's seccomp profile allows what unlade does not: {}{more}",
            some.join(", ")
        ));
    }
    Ok(Some(narrowed))
}

/// The engine's own filter. Runtimes take milliseconds to compile it for each architecture, so that
/// of x32 is there only where the kernel has such calls; elsewhere they fail in any case.
fn own(facts: &Facts<'_>, x32: bool) -> Result<LinuxSeccomp> {
    let mut filter = builtin::profile().resolve(facts)?;
    if !x32 {
        let mut architectures = filter.architectures().clone();
        if let Some(some) = &mut architectures {
            some.retain(|a| *a != Arch::ScmpArchX32);
        }
        filter.set_architectures(architectures);
    }
    Ok(filter)
}

/// What crun takes a compiled filter from, in base64, instead of compiling the spec's own: crun(1).
pub(super) const PROGRAM: &str = "run.oci.seccomp_bpf_data";

/// The value of [`PROGRAM`]; `None` where the runtime has to compile `filter`.
pub(super) fn program(filter: &LinuxSeccomp, host: &HostFacts) -> Option<String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let here = host.arch == "amd64" && cfg!(target_arch = "x86_64");
    let program = here.then(|| bpf::compile(filter)).flatten()?;
    Some(STANDARD.encode(program))
}

fn from_label(text: &str, facts: &Facts<'_>) -> Result<LinuxSeccomp> {
    if text.len() > MAX_PROFILE {
        let e = Error::new(Kind::Limit, "the profile is longer than 1 MiB");
        return Err(e.with_hint("run it with --image-security ignore"));
    }
    let hint = "run it with --image-security ignore";
    let filter = Profile::parse(text)
        .and_then(|p| p.resolve(facts))
        .map_err(|e| e.with_hint(hint))?;
    // A path of the host that the image chooses.
    if filter.listener_path().is_some() || filter.listener_metadata().is_some() {
        let e = Error::new(Kind::BadInput, "the profile names a listener on the host");
        return Err(e.with_hint(hint));
    }
    Ok(filter)
}

#[cfg(test)]
mod tests;
