/* A small network in plain C: standardise, two layers, softmax; checked against the same arithmetic done here.
 *
 *     cc pipeline.c $(pkg-config --cflags --libs tensord) -lm -o pipeline && ./pipeline [SOCKET]
 *
 * Without a socket it uses the daemon at the default place, or a private one that it starts.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <tensord.h>

enum { BATCH = 5, IN = 16, HIDDEN = 12, OUT = 4 };

/* Stops with the library's own words where a call fails. */
#define MUST(call)                                                                                                   \
    do {                                                                                                             \
        if ((call) != TENSORD_OK) {                                                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, tensord_last_error());                               \
            return 1;                                                                                                \
        }                                                                                                            \
    } while (0)

static float noise(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / (float)(1u << 23) - 1.0f;
}

/* out = softmax(tanh(x w1 + b1) w2), in double. */
static void reference(const float *x, const float *w1, const float *b1, const float *w2, double *out)
{
    for (int row = 0; row < BATCH; row++) {
        double hidden[HIDDEN], greatest = -INFINITY, sum = 0.0;
        for (int j = 0; j < HIDDEN; j++) {
            double total = b1[j];
            for (int k = 0; k < IN; k++)
                total += (double)x[row * IN + k] * w1[k * HIDDEN + j];
            hidden[j] = tanh(total);
        }
        for (int j = 0; j < OUT; j++) {
            double total = 0.0;
            for (int k = 0; k < HIDDEN; k++)
                total += hidden[k] * w2[k * OUT + j];
            out[row * OUT + j] = total;
            greatest = fmax(greatest, total);
        }
        for (int j = 0; j < OUT; j++)
            sum += out[row * OUT + j] = exp(out[row * OUT + j] - greatest);
        for (int j = 0; j < OUT; j++)
            out[row * OUT + j] /= sum;
    }
}

int main(int argc, char **argv)
{
    float x[BATCH * IN], w1[IN * HIDDEN], b1[HIDDEN], w2[HIDDEN * OUT], out[BATCH * OUT];
    double wanted[BATCH * OUT];
    unsigned state = 7;
    for (size_t k = 0; k < sizeof x / sizeof *x; k++)
        x[k] = noise(&state);
    for (size_t k = 0; k < sizeof w1 / sizeof *w1; k++)
        w1[k] = noise(&state) / 4;
    for (size_t k = 0; k < sizeof b1 / sizeof *b1; k++)
        b1[k] = noise(&state);
    for (size_t k = 0; k < sizeof w2 / sizeof *w2; k++)
        w2[k] = noise(&state) / 4;

    tensord_options options;
    MUST(tensord_options_init(&options, sizeof options));
    options.name = "pipeline.c";
    options.socket = argc > 1 ? argv[1] : NULL;
    tensord_session *session;
    MUST(tensord_connect(&options, &session));

    /* Weights are constants: held once, however many processes load them. */
    tensord_tensor *tx, *tw1, *tb1, *tw2;
    MUST(tensord_from_memory(session, TENSORD_F32, (uint64_t[]){BATCH, IN}, 2, x, sizeof x, &tx));
    MUST(tensord_constant(session, TENSORD_F32, (uint64_t[]){IN, HIDDEN}, 2, w1, sizeof w1, &tw1));
    MUST(tensord_constant(session, TENSORD_F32, (uint64_t[]){HIDDEN}, 1, b1, sizeof b1, &tb1));
    MUST(tensord_constant(session, TENSORD_F32, (uint64_t[]){HIDDEN, OUT}, 2, w2, sizeof w2, &tw2));

    /* Nothing here waits: the daemon sees the whole chain before it runs any of it. */
    tensord_tensor *product, *sum, *hidden, *logits, *greatest, *shifted, *powers, *total, *result;
    MUST(tensord_contract(tx, tw1, "bi,ih->bh", &product));
    MUST(tensord_binary(TENSORD_FN_ADD, product, tb1, &sum));
    MUST(tensord_unary(TENSORD_FN_TANH, sum, &hidden));
    MUST(tensord_contract(hidden, tw2, "bh,ho->bo", &logits));
    MUST(tensord_reduce(TENSORD_REDUCE_MAX, logits, 1u << 1, true, &greatest));
    MUST(tensord_binary(TENSORD_FN_SUBTRACT, logits, greatest, &shifted));
    MUST(tensord_unary(TENSORD_FN_EXP, shifted, &powers));
    MUST(tensord_reduce(TENSORD_REDUCE_SUM, powers, 1u << 1, true, &total));
    tensord_operand operands[2] = {{.tensor = powers}, {.tensor = total}};
    tensord_op divide = tensord_op_init();
    divide.kind = TENSORD_OP_ELEMENTWISE;
    divide.function = TENSORD_FN_DIVIDE;
    MUST(tensord_submit(session, &divide, operands, 2, __FILE__, __LINE__, &result));

    /* What nobody needs is let go before it is needed, and is never written to memory. */
    tensord_tensor *temporary[] = {product, sum, hidden, logits, greatest, shifted, powers, total};
    for (size_t k = 0; k < sizeof temporary / sizeof *temporary; k++)
        tensord_tensor_free(temporary[k]);

    MUST(tensord_read(result, out, sizeof out));
    reference(x, w1, b1, w2, wanted);
    double worst = 0.0;
    for (int k = 0; k < BATCH * OUT; k++)
        worst = fmax(worst, fabs(out[k] - wanted[k]));

    /* Mistakes are found at the call, with the shapes in the message. */
    tensord_tensor *wrong = NULL;
    if (tensord_contract(tx, tw2, "bi,io->bo", &wrong) != TENSORD_ERR_SHAPE || strstr(tensord_last_error(), "16") == NULL) {
        fprintf(stderr, "a wrong shape was not refused: %s\n", tensord_last_error());
        return 1;
    }
    if (tensord_unary(TENSORD_FN_EXP, NULL, &wrong) == TENSORD_OK || tensord_unary(9999, tx, &wrong) == TENSORD_OK) {
        fprintf(stderr, "nonsense was not refused\n");
        return 1;
    }

    char *json;
    MUST(tensord_stat_json(session, &json));
    int is_json = json[0] == '{';
    tensord_string_free(json);

    tensord_tensor *kept[] = {tx, tw1, tb1, tw2, result};
    for (size_t k = 0; k < sizeof kept / sizeof *kept; k++)
        tensord_tensor_free(kept[k]);
    tensord_session_close(session);

    printf("greatest difference from double: %.3g\n", worst);
    return worst < 1e-6 && is_json ? 0 : 1;
}
