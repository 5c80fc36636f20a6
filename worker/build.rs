//! Writes libtorch's folder into the binaries (RUNPATH), so that they start without any environment variable.
//! LD_LIBRARY_PATH still wins over it: that is how a GPU node offers its full libtorch.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if let Ok(libtorch) = std::env::var("LIBTORCH") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
    }
}
