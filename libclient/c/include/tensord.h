/* tensord: the C interface.
 *
 * Functions return TENSORD_OK or a code, and tensord_last_error() then says what was wrong and what to do. Submitting
 * never waits: a result is a tensor at once, and what fails later is found where its value is needed. Everything that a
 * function gives out is let go by the function named after its type: tensord_session_close, tensord_tensor_free,
 * tensord_fetched_free, tensord_string_free.
 *
 * Made by cbindgen from libclient/c and by the operation table, and made again by
 * TENSORD_HEADER=write cargo test -p tensord-c --test header */

#ifndef TENSORD_H
#define TENSORD_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Elementwise functions: numbers of the operation table, for tensord_unary and its kin. */
#define TENSORD_FN_NEGATIVE 32 /* 1 operand: -x; integers wrap */
#define TENSORD_FN_ABS 33 /* 1 operand: |x|; abs of the least integer is itself */
#define TENSORD_FN_SIGN 34 /* 1 operand: -1, 0 or 1; NaN for NaN; a zero keeps its sign */
#define TENSORD_FN_CEIL 35 /* 1 operand: least integer not below x */
#define TENSORD_FN_FLOOR 36 /* 1 operand: greatest integer not above x */
#define TENSORD_FN_TRUNC 37 /* 1 operand: x without its fraction */
#define TENSORD_FN_ROUND 38 /* 1 operand: nearest integer, halves to even */
#define TENSORD_FN_SQRT 39 /* 1 operand: square root, correctly rounded */
#define TENSORD_FN_SQUARE 40 /* 1 operand: x * x */
#define TENSORD_FN_RECIPROCAL 41 /* 1 operand: 1 / x, correctly rounded */
#define TENSORD_FN_EXP 42 /* 1 operand: e^x */
#define TENSORD_FN_EXPM1 43 /* 1 operand: e^x - 1 */
#define TENSORD_FN_LOG 44 /* 1 operand: natural logarithm; NaN below 0, -inf at 0 */
#define TENSORD_FN_LOG1P 45 /* 1 operand: log(1 + x) */
#define TENSORD_FN_LOG2 46 /* 1 operand: logarithm to base 2 */
#define TENSORD_FN_LOG10 47 /* 1 operand: logarithm to base 10 */
#define TENSORD_FN_SIN 48 /* 1 operand: sine, radians; NaN for infinities */
#define TENSORD_FN_COS 49 /* 1 operand: cosine, radians; NaN for infinities */
#define TENSORD_FN_TAN 50 /* 1 operand: tangent, radians; NaN for infinities */
#define TENSORD_FN_ASIN 51 /* 1 operand: arc sine; NaN outside [-1, 1] */
#define TENSORD_FN_ACOS 52 /* 1 operand: arc cosine; NaN outside [-1, 1] */
#define TENSORD_FN_ATAN 53 /* 1 operand: arc tangent */
#define TENSORD_FN_SINH 54 /* 1 operand: hyperbolic sine */
#define TENSORD_FN_COSH 55 /* 1 operand: hyperbolic cosine */
#define TENSORD_FN_TANH 56 /* 1 operand: hyperbolic tangent */
#define TENSORD_FN_ASINH 57 /* 1 operand: inverse hyperbolic sine */
#define TENSORD_FN_ACOSH 58 /* 1 operand: inverse hyperbolic cosine; NaN below 1 */
#define TENSORD_FN_ATANH 59 /* 1 operand: inverse hyperbolic tangent; NaN outside [-1, 1] */
#define TENSORD_FN_SIGMOID 60 /* 1 operand: 1 / (1 + e^-x) */
#define TENSORD_FN_ERF 61 /* 1 operand: error function */
#define TENSORD_FN_EXP2 62 /* 1 operand: 2^x */
#define TENSORD_FN_RSQRT 63 /* 1 operand: 1 / sqrt(x), each step correctly rounded */
#define TENSORD_FN_ISNAN 64 /* 1 operand: is it a NaN? False for integers */
#define TENSORD_FN_ISINF 65 /* 1 operand: is it an infinity? False for integers */
#define TENSORD_FN_ISFINITE 66 /* 1 operand: neither NaN nor infinity? True for integers */
#define TENSORD_FN_SIGNBIT 67 /* 1 operand: is the sign bit set? For unsigned integers false */
#define TENSORD_FN_LOGICAL_NOT 68 /* 1 operand: x == 0 */
#define TENSORD_FN_BITWISE_INVERT 69 /* 1 operand: all bits inverted; for bool, not */
#define TENSORD_FN_ADD 96 /* 2 operands: a + b; integers wrap */
#define TENSORD_FN_SUBTRACT 97 /* 2 operands: a - b; integers wrap */
#define TENSORD_FN_MULTIPLY 98 /* 2 operands: a * b; integers wrap */
#define TENSORD_FN_DIVIDE 99 /* 2 operands: a / b, correctly rounded */
#define TENSORD_FN_FLOOR_DIVIDE 100 /* 2 operands: floor of the quotient; integers: 0 for division by zero, the least integer over -1 wraps; floats as Python's // (inf or NaN for division by zero) */
#define TENSORD_FN_REMAINDER 101 /* 2 operands: a - floor(a / b) * b with the sign of b, computed without overflow; integers: 0 for division by zero; floats: NaN for division by zero */
#define TENSORD_FN_POW 102 /* 2 operands: a to the power b; integers wrap, a negative exponent gives 0 except for a base of 1 or -1; floats as IEEE pow */
#define TENSORD_FN_ATAN2 103 /* 2 operands: angle of the point (b, a), radians */
#define TENSORD_FN_HYPOT 104 /* 2 operands: sqrt(a*a + b*b) without undue overflow; infinity if either is infinite */
#define TENSORD_FN_LOGADDEXP 105 /* 2 operands: log(e^a + e^b) without undue overflow */
#define TENSORD_FN_MAXIMUM 106 /* 2 operands: the greater; NaN if either is NaN; +0 is above -0 */
#define TENSORD_FN_MINIMUM 107 /* 2 operands: the lesser; NaN if either is NaN; -0 is below +0 */
#define TENSORD_FN_COPYSIGN 108 /* 2 operands: |a| with the sign of b */
#define TENSORD_FN_NEXTAFTER 109 /* 2 operands: the next value of the dtype after a towards b; b if they are equal */
#define TENSORD_FN_FMOD 110 /* 2 operands: remainder with the sign of a, exact, as C's fmod */
#define TENSORD_FN_EQUAL 112 /* 2 operands: a == b */
#define TENSORD_FN_NOT_EQUAL 113 /* 2 operands: a != b */
#define TENSORD_FN_LESS 114 /* 2 operands: a < b */
#define TENSORD_FN_LESS_EQUAL 115 /* 2 operands: a <= b */
#define TENSORD_FN_GREATER 116 /* 2 operands: a > b */
#define TENSORD_FN_GREATER_EQUAL 117 /* 2 operands: a >= b */
#define TENSORD_FN_LOGICAL_AND 120 /* 2 operands: a != 0 and b != 0 */
#define TENSORD_FN_LOGICAL_OR 121 /* 2 operands: a != 0 or b != 0 */
#define TENSORD_FN_LOGICAL_XOR 122 /* 2 operands: exactly one of a != 0, b != 0 */
#define TENSORD_FN_BITWISE_AND 123 /* 2 operands: bits set in both */
#define TENSORD_FN_BITWISE_OR 124 /* 2 operands: bits set in either */
#define TENSORD_FN_BITWISE_XOR 125 /* 2 operands: bits set in exactly one */
#define TENSORD_FN_BITWISE_LEFT_SHIFT 126 /* 2 operands: a * 2^b, wrapped; 0 for b < 0 or b >= width */
#define TENSORD_FN_BITWISE_RIGHT_SHIFT 127 /* 2 operands: a / 2^b, rounded down; for b < 0 or b >= width: 0, or -1 where a is negative */
#define TENSORD_FN_WHERE 160 /* 3 operands: b where the condition a (bool) holds, else c */
#define TENSORD_FN_CLIP 161 /* 3 operands: minimum(maximum(a, b), c) */
#define TENSORD_FN_FMA 162 /* 3 operands: a * b + c with one rounding (f16 and bf16: computed in f32 with one rounding there, then rounded) */


// Outcome of a call.
typedef enum tensord_code {
    // It worked.
    TENSORD_OK = 0,
    // A record breaks the framing rules; a bug of this library.
    TENSORD_ERR_BAD_RECORD = 1,
    // A ring's tail moved by more than the ring holds; a bug of this library.
    TENSORD_ERR_TAIL_JUMP = 2,
    // A control message is malformed.
    TENSORD_ERR_BAD_MESSAGE = 3,
    // File descriptors came with a message that takes none.
    TENSORD_ERR_UNINVITED_FD = 4,
    // No common protocol version.
    TENSORD_ERR_VERSION = 5,
    // This process may not use that socket.
    TENSORD_ERR_DENIED = 6,
    // The daemon does not know the operation.
    TENSORD_ERR_UNKNOWN_OPERATION = 16,
    // The tensor belongs to another session, or to a parent process.
    TENSORD_ERR_BAD_HANDLE = 17,
    // Shapes do not fit the operation.
    TENSORD_ERR_SHAPE = 18,
    // Dtypes do not fit the operation.
    TENSORD_ERR_DTYPE = 19,
    // An argument or an attribute is out of its range.
    TENSORD_ERR_ATTRIBUTE = 20,
    // An operand carries an earlier failure.
    TENSORD_ERR_POISONED = 21,
    // A handle is in use; a bug of this library.
    TENSORD_ERR_HANDLE_IN_USE = 22,
    // A staging region is outside its arena; a bug of this library.
    TENSORD_ERR_STAGING = 23,
    // The daemon holds no constant of this content.
    TENSORD_ERR_NOT_HELD = 24,
    // Not there in the time given.
    TENSORD_ERR_WAIT_TIMEOUT = 25,
    // Memory is not to be had.
    TENSORD_ERR_OUT_OF_MEMORY = 32,
    // A limit of the session was reached.
    TENSORD_ERR_LIMIT = 33,
    // The daemon is ending and takes nothing new.
    TENSORD_ERR_DRAINING = 34,
    // Only the administration socket takes this.
    TENSORD_ERR_NOT_ADMINISTRATOR = 35,
    // The request ended before it was launched.
    TENSORD_ERR_CANCELLED = 48,
    // The engine ended before the request was done.
    TENSORD_ERR_LOST = 49,
    // The device failed.
    TENSORD_ERR_DEVICE_FAULT = 50,
    // The daemon or this library broke one of its own rules; a bug.
    TENSORD_ERR_INTERNAL = 51,
    // The daemon cannot be reached or went away.
    TENSORD_ERR_DAEMON_LOST = 64,
} tensord_code;

// Element type of a tensor.
typedef enum tensord_dtype {
    // One byte, 0 or 1.
    TENSORD_BOOL = 1,
    // Signed, 8 bits.
    TENSORD_I8 = 2,
    // Signed, 16 bits.
    TENSORD_I16 = 3,
    // Signed, 32 bits.
    TENSORD_I32 = 4,
    // Signed, 64 bits.
    TENSORD_I64 = 5,
    // Unsigned, 8 bits.
    TENSORD_U8 = 6,
    // Unsigned, 16 bits.
    TENSORD_U16 = 7,
    // Unsigned, 32 bits.
    TENSORD_U32 = 8,
    // Unsigned, 64 bits.
    TENSORD_U64 = 9,
    // IEEE 754 binary16.
    TENSORD_F16 = 10,
    // bfloat16.
    TENSORD_BF16 = 11,
    // IEEE 754 binary32.
    TENSORD_F32 = 12,
    // IEEE 754 binary64.
    TENSORD_F64 = 13,
} tensord_dtype;

// Class of a session's work.
typedef enum tensord_class {
    // Runs when nothing else wants the device.
    TENSORD_IDLE = 1,
    // The default.
    TENSORD_NORMAL = 2,
    // Before all others.
    TENSORD_REALTIME = 3,
} tensord_class;

// Kind of an operation: what `tensord_op.kind` holds. Beside each: operands; fields read.
typedef enum tensord_kind {
    // 1 to 3, broadcast; `function`: a number of the elementwise table.
    TENSORD_OP_ELEMENTWISE = 0,
    // 1; `dtype`.
    TENSORD_OP_CAST = 1,
    // 1; `function`: `tensord_reduction`, `axes`: one bit for each, `keep`.
    TENSORD_OP_REDUCE = 2,
    // 1; `function`: 0 sum, 1 product; `axis`.
    TENSORD_OP_SCAN = 3,
    // 2; `labels`, as "ik,kj->ij".
    TENSORD_OP_CONTRACT = 4,
    // 1; `a`: the sizes, `count` of them.
    TENSORD_OP_RESHAPE = 5,
    // 1; `a`: the input axis of each output axis.
    TENSORD_OP_PERMUTE = 6,
    // 1; `a` starts, `b` steps, `c` lengths, of each axis.
    TENSORD_OP_SLICE = 7,
    // 1; `a`: the sizes.
    TENSORD_OP_EXPAND = 8,
    // 1; `a` axes, `b` sizes, `c` strides, `d` dilations; NULL for the last two is 1.
    TENSORD_OP_WINDOW = 9,
    // 1; `a` before, `b` behind, of each axis; `immediates[0]`: the fill.
    TENSORD_OP_PAD = 10,
    // 1 to 32; `axis`.
    TENSORD_OP_CONCAT = 11,
    // 2, a tensor and int64 indices; `axis`.
    TENSORD_OP_GATHER = 12,
    // 3, a tensor, int64 indices, updates; `axis`, `function`: 0 replace, 1 add.
    TENSORD_OP_SCATTER = 13,
    // 1.
    TENSORD_OP_COPY = 14,
    // None; `dtype`, `a`: the sizes, `immediates[0]`: the value.
    TENSORD_OP_FULL = 15,
    // None; `dtype`, `a`: the sizes, `axis`, `immediates`: start and step.
    TENSORD_OP_IOTA = 16,
    // None; `dtype`, `a`: the sizes, `function`: 0 bits, 1 uniform, 2 normal; `key`.
    TENSORD_OP_RANDOM = 17,
} tensord_kind;

// How elements are combined.
typedef enum tensord_reduction {
    // Sum.
    TENSORD_REDUCE_SUM = 0,
    // Product.
    TENSORD_REDUCE_PROD = 1,
    // Least.
    TENSORD_REDUCE_MIN = 2,
    // Greatest.
    TENSORD_REDUCE_MAX = 3,
    // Is any other than 0?
    TENSORD_REDUCE_ANY = 4,
    // Are all other than 0?
    TENSORD_REDUCE_ALL = 5,
    // Index of the first least.
    TENSORD_REDUCE_ARGMIN = 6,
    // Index of the first greatest.
    TENSORD_REDUCE_ARGMAX = 7,
} tensord_reduction;

// The bytes of a value, here.
typedef struct tensord_fetched tensord_fetched;

// A session seen through one of its queues. Any thread may use it; threads that work independently should each have a
// queue of their own.
typedef struct tensord_session tensord_session;

// An immutable value in the daemon.
typedef struct tensord_tensor tensord_tensor;

// How a session is opened. Fill it with `tensord_options_init`, then change what you want.
typedef struct tensord_options {
    // Size of this structure, which later versions may extend.
    size_t size;
    // Path of the daemon's socket; NULL searches the default places.
    const char *socket;
    // Name of the session, for people; may be NULL.
    const char *name;
    // One of `tensord_class`.
    uint32_t qos;
    // Weight within the class, 1 to 10,000.
    uint32_t weight;
    // Whether operations may be fused.
    bool fuse;
    // Whether requests may share launches with others.
    bool batch;
    // Whether a private daemon may be started where none is.
    bool autostart;
} tensord_options;

// An operation with its attributes. Set all of it to zero, then the fields that its kind reads.
typedef struct tensord_op {
    // One of `tensord_kind`.
    uint32_t kind;
    // Which one of that kind.
    uint32_t function;
    // One of `tensord_dtype`, where the operation makes or changes one.
    uint32_t dtype;
    // The axis, where there is one.
    uint32_t axis;
    // Axes, one bit each.
    uint32_t axes;
    // Keep reduced axes with size 1.
    bool keep;
    // Length of each list below.
    size_t count;
    // First list.
    const int64_t *a;
    // Second list.
    const int64_t *b;
    // Third list.
    const int64_t *c;
    // Fourth list.
    const int64_t *d;
    // Labels of a contraction.
    const char *labels;
    // Numbers that belong to the operation, rounded to the dtype of its result.
    double immediates[2];
    // Key of random numbers.
    uint64_t key;
} tensord_op;

// An operand: a tensor, or, where `tensor` is NULL, a number of a dtype.
typedef struct tensord_operand {
    // The tensor, or NULL.
    const struct tensord_tensor *tensor;
    // Dtype of the number, one of `tensord_dtype`.
    uint32_t dtype;
    // The number, rounded to that dtype.
    double number;
} tensord_operand;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The message of the last call of this thread that failed; "" if none did. Valid until the next failure in this thread.
const char *tensord_last_error(void);

// The code of the last call of this thread that failed.
enum tensord_code tensord_last_error_code(void);

// The name of a code, such as "out_of_memory"; "ok" for 0 and "unknown" for what is none.
const char *tensord_code_name(uint32_t code);

// Fills in the defaults. `size` is `sizeof(struct tensord_options)`.
//
// # Safety
// `options` is NULL or points at `size` writable bytes.
enum tensord_code tensord_options_init(struct tensord_options *options, size_t size);

// Opens a session; with `options` NULL by the defaults. Where no daemon is, a private one is started.
//
// # Safety
// `options` is NULL or was filled by `tensord_options_init`; its strings are C strings. `session` is writable.
enum tensord_code tensord_connect(const struct tensord_options *options,
                                  struct tensord_session **session);

// A further queue of the session, for another thread. Close it as a session.
//
// # Safety
// `session` comes from this library and is not closed; `queue` is writable.
enum tensord_code tensord_queue(const struct tensord_session *session, struct tensord_session **queue);

// Lets a session or queue go; NULL is ignored. The connection ends with its last queue and tensor.
//
// # Safety
// `session` is NULL, or comes from this library and is not closed.
void tensord_session_close(struct tensord_session *session);

// Sends what was submitted and demands it, without waiting.
//
// # Safety
// `session` comes from this library and is not closed.
enum tensord_code tensord_flush(const struct tensord_session *session);

// Waits for everything submitted to this queue. Gives the first failure that was not reported yet.
//
// # Safety
// `session` comes from this library and is not closed.
enum tensord_code tensord_synchronize(const struct tensord_session *session);

// Lowers a limit of the session, so that a mistake of its own stays small: `staging` or `device-memory` in bytes, `handles`,
// `requests` in flight, or `device-time` in milliseconds of each second. `UINT64_MAX` takes it back. What an administrator set holds
// all the same.
//
// # Safety
// `session` comes from this library and is not closed; `limit` is text that ends with NUL.
enum tensord_code tensord_limit(const struct tensord_session *session,
                                const char *limit,
                                uint64_t value);

// What runs in the daemon, as JSON. Free it with `tensord_string_free`.
//
// # Safety
// `session` comes from this library and is not closed; `json` is writable.
enum tensord_code tensord_stat_json(const struct tensord_session *session, char **json);

// Frees a string of this library; NULL is ignored.
//
// # Safety
// `string` is NULL, or comes from `tensord_stat_json` and is not freed.
void tensord_string_free(char *string);

// Copies the name of the device that the session uses, as configuration writes it, cut to `size - 1` bytes.
//
// # Safety
// `session` comes from this library and is not closed; `name` is `size` writable bytes.
enum tensord_code tensord_device(const struct tensord_session *session, char *name, size_t size);

// Submits an operation. The result is a tensor at once; what fails later is found where its value is needed. `file` and
// `line`, which may be NULL and 0, say where in the program: errors name it.
//
// # Safety
// `session` is open, `op` and its lists are readable, `operands` is `count` operands whose tensors are not freed,
// `file` is NULL or a C string, `tensor` is writable.
enum tensord_code tensord_submit(const struct tensord_session *session,
                                 const struct tensord_op *op,
                                 const struct tensord_operand *operands,
                                 size_t count,
                                 const char *file,
                                 uint32_t line,
                                 struct tensord_tensor **tensor);

// The number of an elementwise function by its name ("add", "exp"); 0 where there is none.
//
// # Safety
// `name` is NULL or a C string.
uint32_t tensord_elementwise_by_name(const char *name);

// An elementwise function of one tensor, such as `TENSORD_FN_EXP`.
//
// # Safety
// `x` is not freed, `out` is writable.
enum tensord_code tensord_unary(uint32_t function,
                                const struct tensord_tensor *x,
                                struct tensord_tensor **out);

// An elementwise function of two tensors, broadcast, such as `TENSORD_FN_ADD`.
//
// # Safety
// `a` and `b` are not freed, `out` is writable.
enum tensord_code tensord_binary(uint32_t function,
                                 const struct tensord_tensor *a,
                                 const struct tensord_tensor *b,
                                 struct tensord_tensor **out);

// An elementwise function of a tensor and a number, which is rounded to the tensor's dtype.
//
// # Safety
// `a` is not freed, `out` is writable.
enum tensord_code tensord_binary_number(uint32_t function,
                                        const struct tensord_tensor *a,
                                        double number,
                                        struct tensord_tensor **out);

// Einsum of two tensors with explicit labels of the output: "ik,kj->ij".
//
// # Safety
// `a` and `b` are not freed, `labels` is a C string, `out` is writable.
enum tensord_code tensord_contract(const struct tensord_tensor *a,
                                   const struct tensord_tensor *b,
                                   const char *labels,
                                   struct tensord_tensor **out);

// A tensor reduced over axes (one bit each); `keep` leaves them with size 1.
//
// # Safety
// `x` is not freed, `out` is writable.
enum tensord_code tensord_reduce(uint32_t reduction,
                                 const struct tensord_tensor *x,
                                 uint32_t axes,
                                 bool keep,
                                 struct tensord_tensor **out);

// The same elements in row-major order as another shape.
//
// # Safety
// `x` is not freed, `shape` is `rank` sizes, `out` is writable.
enum tensord_code tensord_reshape(const struct tensord_tensor *x,
                                  const uint64_t *shape,
                                  size_t rank,
                                  struct tensord_tensor **out);

// Axes reordered: axis `k` of the result is axis `order[k]` of `x`.
//
// # Safety
// `x` is not freed, `order` is `rank` axes, `out` is writable.
enum tensord_code tensord_permute(const struct tensord_tensor *x,
                                  const uint8_t *order,
                                  size_t rank,
                                  struct tensord_tensor **out);

// The elements converted to another dtype.
//
// # Safety
// `x` is not freed, `out` is writable.
enum tensord_code tensord_cast(const struct tensord_tensor *x, uint32_t dtype, struct tensord_tensor **out);

// A tensor whose every element is `number`, rounded to `dtype`.
//
// # Safety
// `session` is open, `shape` is `rank` sizes, `out` is writable.
enum tensord_code tensord_full(const struct tensord_session *session,
                               uint32_t dtype,
                               const uint64_t *shape,
                               size_t rank,
                               double number,
                               struct tensord_tensor **out);

// An operation with nothing set, to begin with.
struct tensord_op tensord_op_init(void);

// A tensor with these row-major bytes.
//
// # Safety
// `session` is open, `shape` is `rank` sizes, `data` is `bytes` readable bytes, `tensor` is writable.
enum tensord_code tensord_from_memory(const struct tensord_session *session,
                                      uint32_t dtype,
                                      const uint64_t *shape,
                                      size_t rank,
                                      const void *data,
                                      size_t bytes,
                                      struct tensord_tensor **tensor);

// A tensor that is shared by content: equal bytes of a tenant are held once. Use it for weights.
//
// # Safety
// As for `tensord_from_memory`.
enum tensord_code tensord_constant(const struct tensord_session *session,
                                   uint32_t dtype,
                                   const uint64_t *shape,
                                   size_t rank,
                                   const void *data,
                                   size_t bytes,
                                   struct tensord_tensor **tensor);

// Another name of the same value, to be freed by itself.
//
// # Safety
// `tensor` comes from this library and is not freed; `copy` is writable.
enum tensord_code tensord_tensor_share(const struct tensord_tensor *tensor, struct tensord_tensor **copy);

// Releases a tensor; NULL is ignored. A value that nobody needed by then is never computed.
//
// # Safety
// `tensor` is NULL, or comes from this library and is not freed.
void tensord_tensor_free(struct tensord_tensor *tensor);

// Dtype of a tensor, one of `tensord_dtype`; 0 for NULL.
//
// # Safety
// `tensor` is NULL, or comes from this library and is not freed.
uint32_t tensord_tensor_dtype(const struct tensord_tensor *tensor);

// Number of axes of a tensor; 0 for NULL.
//
// # Safety
// `tensor` is NULL, or comes from this library and is not freed.
size_t tensord_tensor_rank(const struct tensord_tensor *tensor);

// Sizes of the axes of a tensor, valid while it is; NULL for NULL.
//
// # Safety
// `tensor` is NULL, or comes from this library and is not freed.
const uint64_t *tensord_tensor_shape(const struct tensord_tensor *tensor);

// Number of bytes of a tensor's value; 0 for NULL.
//
// # Safety
// `tensor` is NULL, or comes from this library and is not freed.
uint64_t tensord_tensor_bytes(const struct tensord_tensor *tensor);

// Waits until the value is there, at most `timeout_us` microseconds, without end where that is negative.
//
// # Safety
// `tensor` comes from this library and is not freed.
enum tensord_code tensord_wait(const struct tensord_tensor *tensor, int64_t timeout_us);

// Waits for the value and copies its row-major bytes to `data`; `bytes` must be their number.
//
// # Safety
// `tensor` comes from this library and is not freed; `data` is `bytes` writable bytes.
enum tensord_code tensord_read(const struct tensord_tensor *tensor, void *data, size_t bytes);

// Waits for the value and gives its bytes without a copy where they fit staging.
//
// # Safety
// `tensor` comes from this library and is not freed; `fetched` is writable.
enum tensord_code tensord_fetch(const struct tensord_tensor *tensor, struct tensord_fetched **fetched);

// The bytes of a fetched value, valid until it is freed; NULL for NULL.
//
// # Safety
// `fetched` is NULL, or comes from this library and is not freed.
const void *tensord_fetched_data(const struct tensord_fetched *fetched);

// The number of bytes of a fetched value; 0 for NULL.
//
// # Safety
// `fetched` is NULL, or comes from this library and is not freed.
size_t tensord_fetched_bytes(const struct tensord_fetched *fetched);

// Lets a fetched value go; NULL is ignored.
//
// # Safety
// `fetched` is NULL, or comes from this library and is not freed.
void tensord_fetched_free(struct tensord_fetched *fetched);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TENSORD_H */
