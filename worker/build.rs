//! Writes libtorch's folder into the binaries (RUNPATH), so that they start without any environment variable.
//! LD_LIBRARY_PATH still wins over it: that is how a GPU node offers its full libtorch.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    match std::env::var("LIBTORCH") {
        Ok(libtorch) => {
            println!("cargo::rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
            println!("cargo::rustc-env=LIBTORCH_AT_BUILD={libtorch}");
        }
        Err(_) => println!("cargo::rustc-env=LIBTORCH_AT_BUILD="),
    }
}
