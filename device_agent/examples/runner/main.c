/*
 * fleet_runner IMAGE INPUT OUTPUT [reset]: run an image on this machine.
 * INPUT holds any number of inferences, each all model inputs one after the other, int8, channels last; OUTPUT gets all
 * model outputs the same way. A model with state sees them as one stream, in order; with `reset` each begins anew. Figures go to stdout as one line of JSON, complaints to stderr with exit code 1.
 * A host program: unlike the library it uses the heap and files.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fleet_runtime.h"

#define ALIGNMENT 16u

typedef struct {
    void *owned;
    uint8_t *bytes; /* aligned */
    size_t size;
} memory_t;

typedef struct {
    fleet_model_t model;
    fleet_model_info_t info;
    memory_t image;
    memory_t arena;
    memory_t state;
    int reset; /* before every inference */
} session_t;

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "fleet_runner: %s: %s\n", what, why);
    return 1;
}

static int allocate(memory_t *memory, size_t size)
{
    memory->owned = malloc(size + ALIGNMENT);
    if (memory->owned == NULL) {
        return complain("memory", "not enough");
    }
    const uintptr_t start = (uintptr_t)memory->owned;
    memory->bytes = (uint8_t *)memory->owned + (ALIGNMENT - start % ALIGNMENT) % ALIGNMENT;
    memory->size = size;
    return 0;
}

static int read_file(const char *path, memory_t *memory)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return complain(path, strerror(errno));
    }
    long size = -1;
    if (fseek(file, 0, SEEK_END) == 0) {
        size = ftell(file);
    }
    rewind(file);
    int failed = size < 0 ? complain(path, strerror(errno)) : allocate(memory, (size_t)size);
    if (!failed && fread(memory->bytes, 1, memory->size, file) != memory->size) {
        failed = complain(path, "read failed");
    }
    fclose(file);
    return failed;
}

static int open_session(session_t *session, const char *path)
{
    if (read_file(path, &session->image)) {
        return 1;
    }
    fleet_status_t status = fleet_model_open(&session->model, session->image.bytes, session->image.size);
    if (status == FLEET_OK) {
        status = fleet_model_verify(&session->model);
    }
    if (status != FLEET_OK) {
        return complain(path, fleet_status_text(status));
    }
    fleet_model_info(&session->model, &session->info);
    if (allocate(&session->arena, session->info.arena_bytes) || allocate(&session->state, session->info.state_bytes)) {
        return 1;
    }
    status = fleet_model_attach_state(&session->model, session->state.bytes, session->state.size);
    if (status != FLEET_OK) {
        return complain(path, fleet_status_text(status));
    }
    status = fleet_model_golden(&session->model, session->arena.bytes, session->arena.size);
    return status == FLEET_OK ? 0 : complain(path, fleet_status_text(status));
}

/* Bytes of all inputs together. */
static size_t input_bytes(const session_t *session)
{
    size_t sum = 0;
    fleet_tensor_t tensor;
    for (uint32_t i = 0; i < session->info.input_count; i++) {
        if (fleet_model_input_info(&session->model, i, &tensor) == FLEET_OK) {
            sum += tensor.size_bytes;
        }
    }
    return sum;
}

static fleet_status_t set_inputs(const session_t *session, const uint8_t *data)
{
    fleet_tensor_t tensor;
    for (uint32_t i = 0; i < session->info.input_count; i++) {
        fleet_status_t status = fleet_model_input_info(&session->model, i, &tensor);
        if (status == FLEET_OK) {
            status = fleet_model_set_input(&session->model, i, data, tensor.size_bytes, session->arena.bytes,
                                           session->arena.size);
        }
        if (status != FLEET_OK) {
            return status;
        }
        data += tensor.size_bytes;
    }
    return FLEET_OK;
}

static int write_outputs(const session_t *session, FILE *file)
{
    fleet_tensor_t tensor;
    for (uint32_t i = 0; i < session->info.output_count; i++) {
        const int8_t *output = fleet_model_output(&session->model, i, session->arena.bytes);
        if (fleet_model_output_info(&session->model, i, &tensor) != FLEET_OK ||
            fwrite(output, 1, tensor.size_bytes, file) != tensor.size_bytes) {
            return complain("output", "write failed");
        }
    }
    return 0;
}

static int run_all(const session_t *session, const memory_t *input, size_t each, FILE *file)
{
    for (size_t at = 0; at < input->size; at += each) {
        fleet_status_t status = session->reset ? fleet_model_reset_state(&session->model) : FLEET_OK;
        if (status == FLEET_OK) {
            status = set_inputs(session, input->bytes + at);
        }
        if (status == FLEET_OK) {
            status = fleet_model_invoke(&session->model, session->arena.bytes, session->arena.size);
        }
        if (status != FLEET_OK) {
            return complain("inference", fleet_status_text(status));
        }
        if (write_outputs(session, file)) {
            return 1;
        }
    }
    return 0;
}

static int run_files(const session_t *session, const char *input_path, const char *output_path, memory_t *input)
{
    const size_t each = input_bytes(session);
    if (read_file(input_path, input)) {
        return 1;
    }
    if (input->size % each != 0u) {
        return complain(input_path, "size is no multiple of the model's input");
    }
    FILE *output = fopen(output_path, "wb");
    if (output == NULL) {
        return complain(output_path, strerror(errno));
    }
    int failed = run_all(session, input, each, output);
    if (fclose(output) != 0 && !failed) {
        failed = complain(output_path, strerror(errno));
    }
    if (!failed) {
        printf("{\"inferences\": %lu, \"arena_bytes\": %lu, \"state_bytes\": %lu}\n",
               (unsigned long)(input->size / each), (unsigned long)session->info.arena_bytes,
               (unsigned long)session->info.state_bytes);
    }
    return failed;
}

int main(int argc, char **argv)
{
    session_t session;
    memory_t input = {NULL, NULL, 0};
    memset(&session, 0, sizeof(session));
    if (argc < 4 || argc > 5 || (argc == 5 && strcmp(argv[4], "reset") != 0)) {
        return complain("usage", "fleet_runner IMAGE INPUT OUTPUT [reset]");
    }
    session.reset = argc == 5;
    const int failed = open_session(&session, argv[1]) || run_files(&session, argv[2], argv[3], &input);
    free(session.image.owned);
    free(session.arena.owned);
    free(session.state.owned);
    free(input.owned);
    return failed;
}
