//! The Python package of tensord: arrays, the operation table as functions, sessions.
//!
//! A request is made here, from Python's objects, without a detour through Python code; the package in `python/tensord`
//! adds what the Array API composes of several requests. Unsafe code is limited to what the interpreter's C interface
//! needs: frames (`site`), buffers and DLPack (`interchange`), and the cell of an array (`array`).

mod array;
mod attributes;
mod creation;
mod debug;
mod dlpack;
mod dtype;
mod errors;
mod functions;
mod index;
mod interchange;
mod movement;
mod operators;
mod products;
mod session;
mod site;

use pyo3::prelude::*;

/// The extension module under the package.
#[pymodule(name = "_tensord", gil_used = true)]
fn extension(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    tensord_client::set_runtime(&session::Interpreter);
    module.add_class::<array::Array>()?;
    module.add_class::<dtype::PyDType>()?;
    module.add_class::<session::PySession>()?;
    module.add_class::<interchange::Fetched>()?;
    for dtype in tensord_shm::dtype::DType::ALL {
        module.add(dtype.name(), dtype::dtype_object(py, dtype)?)?;
    }
    functions::register(module)?;
    products::register(module)?;
    movement::register(module)?;
    creation::register(module)?;
    interchange::register(module)?;
    module.add_function(wrap_pyfunction!(dlpack::from_dlpack, module)?)?;
    module.add_function(wrap_pyfunction!(dtype::dtype, module)?)?;
    module.add_function(wrap_pyfunction!(dtype::result_type, module)?)?;
    module.add_function(wrap_pyfunction!(session::open, module)?)?;
    module.add_function(wrap_pyfunction!(session::session, module)?)?;
    module.add_function(wrap_pyfunction!(session::stat_json, module)?)?;
    module.add_function(wrap_pyfunction!(session::limit, module)?)?;
    module.add_function(wrap_pyfunction!(session::limits_json, module)?)?;
    module.add_function(wrap_pyfunction!(session::synchronize, module)?)?;
    module.add_function(wrap_pyfunction!(session::flush, module)?)?;
    module.add_function(wrap_pyfunction!(debug::set_debug, module)?)?;
    module.add_function(wrap_pyfunction!(site::set_sites, module)?)?;
    module.add_function(wrap_pyfunction!(site::site, module)?)?;
    module.add_function(wrap_pyfunction!(site::set_package, module)?)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
