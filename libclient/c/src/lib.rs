//! The C interface of tensord: opaque sessions and tensors over the Rust client, with codes for outcomes.
//!
//! `include/tensord.h` is made from this crate by cbindgen; a test holds it to that. Every function that can fail gives
//! a [`codes::tensord_code`] and leaves a message for [`guard::tensord_last_error`] in its thread.
//!
//! # Invariants
//! No panic crosses the boundary, and no pointer that comes in is used before it was compared with NULL. What a pointer
//! points at is the caller's duty and stated at each function.

pub mod codes;
pub mod descriptor;
pub mod guard;
pub mod session;
pub mod submit;
pub mod tensor;

#[cfg(test)]
mod tests {
    //! Nonsense at the boundary, without a daemon.

    use std::ffi::CStr;
    use std::ptr;

    use super::codes::tensord_code::{self, *};
    use super::{guard, session, submit, tensor};

    fn last() -> String {
        // SAFETY: a C string that lives until this thread's next failure.
        let text = unsafe { CStr::from_ptr(guard::tensord_last_error()) };
        text.to_string_lossy().into_owned()
    }

    #[track_caller]
    fn refused(code: tensord_code, part: &str) {
        assert_eq!(code, TENSORD_ERR_ATTRIBUTE);
        assert_eq!(guard::tensord_last_error_code(), TENSORD_ERR_ATTRIBUTE);
        assert!(last().contains(part), "{}", last());
    }

    #[test]
    fn null_is_an_error_everywhere() {
        let mut out = ptr::null_mut();
        let mut opened = ptr::null_mut();
        // SAFETY: every pointer is NULL or a live local.
        unsafe {
            refused(
                session::tensord_connect(ptr::null(), ptr::null_mut()),
                "NULL",
            );
            refused(
                session::tensord_queue(ptr::null(), &mut opened),
                "session is NULL",
            );
            refused(session::tensord_flush(ptr::null()), "session is NULL");
            refused(session::tensord_synchronize(ptr::null()), "session is NULL");
            refused(
                session::tensord_stat_json(ptr::null(), ptr::null_mut()),
                "NULL",
            );
            refused(tensor::tensord_wait(ptr::null(), 0), "tensor is NULL");
            refused(
                tensor::tensord_read(ptr::null(), ptr::null_mut(), 0),
                "tensor is NULL",
            );
            refused(tensor::tensord_fetch(ptr::null(), ptr::null_mut()), "NULL");
            refused(
                submit::tensord_unary(42, ptr::null(), &mut out),
                "tensor is NULL",
            );
            refused(
                submit::tensord_unary(42, ptr::null(), ptr::null_mut()),
                "the place",
            );
            let op = submit::tensord_op_init();
            let submitted =
                submit::tensord_submit(ptr::null(), &op, ptr::null(), 0, ptr::null(), 0, &mut out);
            refused(submitted, "session is NULL");
            let contracted =
                submit::tensord_contract(ptr::null(), ptr::null(), ptr::null(), &mut out);
            refused(contracted, "NULL");
            assert_eq!(tensor::tensord_tensor_dtype(ptr::null()), 0);
            assert_eq!(tensor::tensord_tensor_rank(ptr::null()), 0);
            assert!(tensor::tensord_tensor_shape(ptr::null()).is_null());
            assert_eq!(tensor::tensord_tensor_bytes(ptr::null()), 0);
            assert!(tensor::tensord_fetched_data(ptr::null()).is_null());
            assert_eq!(tensor::tensord_fetched_bytes(ptr::null()), 0);
            tensor::tensord_tensor_free(ptr::null_mut());
            tensor::tensord_fetched_free(ptr::null_mut());
            session::tensord_session_close(ptr::null_mut());
            session::tensord_string_free(ptr::null_mut());
            assert_eq!(submit::tensord_elementwise_by_name(ptr::null()), 0);
            assert_eq!(submit::tensord_elementwise_by_name(c"tanh".as_ptr()), 56);
            assert_eq!(submit::tensord_elementwise_by_name(c"tanhh".as_ptr()), 0);
        }
        assert!(out.is_null() && opened.is_null());
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let mut opened = ptr::null_mut();
        let mut options = std::mem::MaybeUninit::uninit();
        // SAFETY: the structure is filled before it is read.
        unsafe {
            refused(session::tensord_options_init(options.as_mut_ptr(), 3), "3");
            let size = size_of::<session::tensord_options>();
            assert_eq!(
                session::tensord_options_init(options.as_mut_ptr(), size),
                TENSORD_OK
            );
            let mut options = options.assume_init();
            options.qos = 77;
            refused(session::tensord_connect(&options, &mut opened), "77");
            options.qos = 2;
            options.socket = c"/nonexistent/tensord.sock".as_ptr();
            let code = session::tensord_connect(&options, &mut opened);
            assert_eq!(code, TENSORD_ERR_DAEMON_LOST);
            assert!(last().contains("/nonexistent/tensord.sock"), "{}", last());
        }
        // SAFETY: names are static.
        let name = |code| unsafe { CStr::from_ptr(guard::tensord_code_name(code)) };
        assert_eq!(name(0), c"ok");
        assert_eq!(name(TENSORD_ERR_OUT_OF_MEMORY as u32), c"out_of_memory");
        assert_eq!(name(12345), c"unknown");
    }

    #[test]
    fn a_panic_becomes_a_code() {
        let code = guard::call(|| panic!("half-way"));
        assert_eq!(code, TENSORD_ERR_INTERNAL);
        assert!(last().contains("half-way"), "{}", last());
    }
}
