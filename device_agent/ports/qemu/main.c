/*
 * Bench firmware: runs an image on input.bin of QEMU's working directory (through semihosting), writes output.bin, layers.bin
 * (CRC-32 of every op's output: of each inference, with state of the first) and figures.json (the first inference's counts, in all
 * and op by op) there. input.bin holds any number of inferences, each all model inputs one after the other, int8: one stream
 * for a model with state, unless a file reset.bin is there. A failure is `fleet_bench: STEP STATUS` on the console and exit code 1.
 */
#include "bench.h"
#include "fleet_runtime.h"

#ifndef FLEET_ARENA_BYTES
#define FLEET_ARENA_BYTES (4u << 20)
#define FLEET_INPUT_BYTES (1u << 20)
#define FLEET_STATE_BYTES (1u << 20)
#endif
#define MAX_LAYERS 512u

#define IN_PSRAM __attribute__((section(".psram"), aligned(16)))
static uint8_t arena[FLEET_ARENA_BYTES] IN_PSRAM;
static uint8_t input[FLEET_INPUT_BYTES] IN_PSRAM;
static uint8_t state[FLEET_STATE_BYTES] IN_PSRAM;
static uint32_t layer_instructions[MAX_LAYERS];
static uint32_t layer_crcs[MAX_LAYERS];

typedef struct {
    uint32_t inferences;
    uint32_t open_instructions;
    uint32_t start_instructions; /* of the first inference beyond the second */
    uint32_t instructions;
    uint32_t stack_bytes;
    uint32_t layers;
} figures_t;

/* Decimal digits of `value` into `text`; returns the first one. */
static const char *decimal(uint32_t value, char *text, size_t size)
{
    char *at = text + size - 1u;
    *at = '\0';
    do {
        *--at = (char)('0' + value % 10u);
        value /= 10u;
    } while (value != 0u);
    return at;
}

static int complain(const char *step, int status)
{
    char text[16];
    fleet_host_print("fleet_bench: ");
    fleet_host_print(step);
    fleet_host_print(status < 0 ? " -" : " ");
    fleet_host_print(decimal((uint32_t)(status < 0 ? -status : status), text, sizeof(text)));
    fleet_host_print("\n");
    return 1;
}

static uint32_t input_bytes(const fleet_model_t *model)
{
    uint32_t sum = 0;
    fleet_tensor_t tensor;
    for (uint32_t i = 0; fleet_model_input_info(model, i, &tensor) == FLEET_OK; i++) {
        sum += tensor.size_bytes;
    }
    return sum;
}

static void set_inputs(const fleet_model_t *model)
{
    const uint8_t *data = input;
    fleet_tensor_t tensor;
    for (uint32_t i = 0; fleet_model_input_info(model, i, &tensor) == FLEET_OK; i++) {
        (void)fleet_model_set_input(model, i, data, tensor.size_bytes, arena, sizeof(arena));
        data += tensor.size_bytes;
    }
}

/* Instructions of one inference on what is in `input`. */
static uint32_t count_inference(const fleet_model_t *model)
{
    set_inputs(model);
    fleet_counter_start();
    const uint64_t before = fleet_counter_instructions();
    (void)fleet_model_invoke(model, arena, sizeof(arena));
    return (uint32_t)(fleet_counter_instructions() - before);
}

static int open_model(fleet_model_t *model, figures_t *figures)
{
    size_t bytes;
    const uint8_t *image = fleet_bench_image(&bytes);
    fleet_counter_start();
    const uint64_t before = fleet_counter_instructions();
    fleet_status_t status = fleet_model_open(model, image, bytes);
    figures->open_instructions = (uint32_t)(fleet_counter_instructions() - before);
    if (status == FLEET_OK) {
        status = fleet_model_verify(model);
    }
    if (status == FLEET_OK) {
        status = fleet_model_attach_state(model, state, sizeof(state));
    }
    if (status == FLEET_OK) {
        const uint32_t first = count_inference(model);
        const uint32_t second = count_inference(model);
        figures->start_instructions = first > second ? first - second : 0u;
        status = fleet_model_golden(model, arena, sizeof(arena));
    }
    return status == FLEET_OK ? 0 : complain("open", status);
}

static int write_outputs(const fleet_model_t *model, int file)
{
    fleet_tensor_t tensor;
    for (uint32_t i = 0; fleet_model_output_info(model, i, &tensor) == FLEET_OK; i++) {
        if (fleet_host_write(file, fleet_model_output(model, i, arena), tensor.size_bytes) != 0) {
            return complain("output.bin", -1);
        }
    }
    return 0;
}

static uint32_t *stack_pointer(void)
{
    uint32_t *pointer;
    __asm__ volatile("mov %0, sp" : "=r"(pointer));
    return pointer;
}

/* One inference between two readings of the counter, on a marked stack. */
static __attribute__((noinline)) fleet_status_t measure(const fleet_model_t *model, figures_t *figures)
{
    const size_t stack = (size_t)((uintptr_t)stack_pointer() - (uintptr_t)fleet_stack_low);
    fleet_stack_mark(fleet_stack_low, stack);
    fleet_counter_start();
    const uint64_t before = fleet_counter_instructions();
    const fleet_status_t status = fleet_model_invoke(model, arena, sizeof(arena));
    const uint64_t after = fleet_counter_instructions();
    if (figures->inferences++ == 0u) {
        figures->instructions = (uint32_t)(after - before);
        figures->stack_bytes = fleet_stack_used(fleet_stack_low, stack);
    }
    return status;
}

static uint32_t count(void *context)
{
    (void)context;
    return (uint32_t)fleet_counter_instructions();
}

/* The same inference op by op: instructions of each, in steps of a tick. */
static void measure_layers(const fleet_model_t *model, figures_t *figures)
{
    fleet_model_info_t info;
    fleet_model_info(model, &info);
    fleet_counter_start();
    if (fleet_model_profile(model, arena, sizeof(arena), count, 0, layer_instructions, MAX_LAYERS) == FLEET_OK) {
        figures->layers = info.op_count;
    }
}

/* CRC-32 of what each op of an inference writes; the rows of a cascade come one by one. */
static int write_crcs(const fleet_model_t *model, int file)
{
    fleet_cursor_t cursor = {0};
    fleet_step_t step;
    uint32_t layers = 0;
    while (cursor.index < MAX_LAYERS && fleet_model_step(model, &cursor, arena, sizeof(arena), &step) == FLEET_OK &&
           step.index < MAX_LAYERS) {
        for (; layers <= step.index; layers++) {
            layer_crcs[layers] = 0;
        }
        layer_crcs[step.index] = fleet_crc32(layer_crcs[step.index], step.output, step.output_bytes);
    }
    return fleet_host_write(file, layer_crcs, layers * sizeof(layer_crcs[0])) == 0 ? 0 : complain("layers.bin", -1);
}

static int has_state(const fleet_model_t *model)
{
    fleet_model_info_t info;
    fleet_model_info(model, &info);
    return info.state_bytes != 0u;
}

/* Runs the stream: the layers of an inference are counted before it; of a model with state only the first, which is put back. */
static int run_all(const fleet_model_t *model, figures_t *figures)
{
    const int reset = fleet_host_open("reset.bin", FLEET_HOST_READ) >= 0;
    const int in = fleet_host_open("input.bin", FLEET_HOST_READ);
    const int out = fleet_host_open("output.bin", FLEET_HOST_WRITE);
    const int layers = fleet_host_open("layers.bin", FLEET_HOST_WRITE);
    const uint32_t each = input_bytes(model);
    if (in < 0 || out < 0 || layers < 0 || each > sizeof(input)) {
        return complain("input.bin", FLEET_ERR_SIZE);
    }
    while (fleet_host_read(in, input, each) == each) {
        if (reset || figures->inferences == 0u) {
            (void)fleet_model_reset_state(model);
        }
        if (figures->inferences == 0u) {
            set_inputs(model);
            measure_layers(model, figures);
            (void)fleet_model_reset_state(model);
        }
        if (figures->inferences == 0u || !has_state(model)) {
            set_inputs(model);
            if (write_crcs(model, layers)) {
                return 1;
            }
        }
        if (reset || figures->inferences == 0u) {
            (void)fleet_model_reset_state(model);
        }
        set_inputs(model);
        const fleet_status_t status = measure(model, figures);
        if (status != FLEET_OK) {
            return complain("invoke", status);
        }
        if (write_outputs(model, out)) {
            return 1;
        }
    }
    return 0;
}

static void write_text(int file, const char *text)
{
    size_t bytes = 0;
    while (text[bytes] != '\0') {
        bytes++;
    }
    (void)fleet_host_write(file, text, bytes);
}

static void write_figure(int file, const char *name, uint32_t value)
{
    char text[16];
    write_text(file, name);
    write_text(file, decimal(value, text, sizeof(text)));
}

static void write_figures(const fleet_model_t *model, const figures_t *figures)
{
    const int file = fleet_host_open("figures.json", FLEET_HOST_WRITE);
    fleet_model_info_t info;
    fleet_model_info(model, &info);
    write_figure(file, "{\"inferences\": ", figures->inferences);
    write_figure(file, ", \"open_instructions\": ", figures->open_instructions);
    write_figure(file, ", \"start_instructions\": ", figures->start_instructions);
    write_figure(file, ", \"instructions\": ", figures->instructions);
    write_figure(file, ", \"stack_bytes\": ", figures->stack_bytes);
    write_figure(file, ", \"runtime_flash_bytes\": ", (uint32_t)(fleet_runtime_end - fleet_runtime_start));
    write_figure(file, ", \"arena_bytes\": ", info.arena_bytes);
    write_figure(file, ", \"state_bytes\": ", info.state_bytes);
    for (uint32_t i = 0; i < figures->layers; i++) {
        write_figure(file, i == 0u ? ", \"layer_instructions\": [" : ", ", layer_instructions[i]);
    }
    write_text(file, "]}\n");
}

int main(void)
{
    fleet_model_t model;
    figures_t figures = {0, 0, 0, 0, 0, 0};
    if (open_model(&model, &figures) || run_all(&model, &figures)) {
        return 1;
    }
    write_figures(&model, &figures);
    return 0;
}
