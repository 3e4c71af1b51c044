//! `include/tensord.h` is what the crate and the operation table say. It is written instead by
//! `TENSORD_HEADER=write cargo test -p tensord-c --test header`.

use std::fmt::Write as _;
use std::path::Path;

use tensord_shm::op::Elementwise;

const COMMAND: &str = "TENSORD_HEADER=write cargo test -p tensord-c --test header";

fn generate(folder: &Path) -> String {
    let mut config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).expect("it parses");
    let mut functions = String::from(
        "\n/* Elementwise functions: numbers of the operation table, for tensord_unary and its kin. */\n",
    );
    for function in Elementwise::ALL {
        let info = function.info();
        writeln!(
            functions,
            "#define TENSORD_FN_{} {} /* {} operand{}: {} */",
            info.name.to_uppercase(),
            function.wire(),
            info.arity,
            if info.arity == 1 { "" } else { "s" },
            info.definition.replace("*/", "* /"),
        )
        .expect("strings take everything");
    }
    config.after_includes = Some(functions);
    let mut header = Vec::new();
    cbindgen::Builder::new()
        .with_crate(folder)
        .with_config(config)
        .generate()
        .expect("the crate's interface is plain C")
        .write(&mut header);
    String::from_utf8(header).expect("cbindgen writes UTF-8")
}

#[test]
fn the_header_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = folder.join("include/tensord.h");
    let fresh = generate(folder);
    if std::env::var_os("TENSORD_HEADER").is_some_and(|value| value == "write") {
        std::fs::write(&path, fresh).expect("the repository is writable");
        return;
    }
    let kept = std::fs::read_to_string(&path).expect("it is checked in");
    assert!(
        kept == fresh,
        "include/tensord.h is not what the crate says: run {COMMAND}"
    );
}
