/* A file of live inputs and their labels; its bytes are described in the README. */
#ifndef FLEET_DEVICE_DATASET_H
#define FLEET_DEVICE_DATASET_H

#include <stdbool.h>
#include <stdint.h>

#define DATASET_INT8 0U
#define DATASET_FLOAT32 1U

typedef struct {
    const uint8_t *inputs;
    const uint8_t *labels; /* int32, -1 = not known */
    uint32_t count;
    uint32_t input_bytes;
    uint8_t type;
} dataset_t;

/* Maps the file for the life of the process. False: `error` says what is wrong with it. */
bool dataset_open(dataset_t *dataset, const char *path, char *error, uint32_t error_bytes);

/* One input, aligned for its type. */
const void *dataset_input(const dataset_t *dataset, uint32_t index);

/* Its label, negative when not known. */
int32_t dataset_label(const dataset_t *dataset, uint32_t index);

#endif
