#define _POSIX_C_SOURCE 200809L

#include "dataset.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_BYTES 16U
#define VERSION 1U

static uint32_t get_u32(const uint8_t *in)
{
    return (uint32_t)in[0] | ((uint32_t)in[1] << 8) | ((uint32_t)in[2] << 16) | ((uint32_t)in[3] << 24);
}

static const uint8_t *map_file(const char *path, size_t *bytes)
{
    struct stat info;
    const uint8_t *map = NULL;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return NULL;
    }
    if (fstat(file, &info) == 0 && info.st_size > 0) {
        void *mapped = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, file, 0);
        map = mapped == MAP_FAILED ? NULL : mapped;
        *bytes = (size_t)info.st_size;
    }
    (void)close(file);
    return map;
}

static const char *read_header(dataset_t *dataset, const uint8_t *map, size_t bytes)
{
    if (bytes < HEADER_BYTES || memcmp(map, "TFDS", 4) != 0) {
        return "is not a TFDS file";
    }
    if (map[4] != VERSION || map[5] != 0U || map[6] > DATASET_FLOAT32) {
        return "has an unknown version or input type";
    }
    dataset->type = map[6];
    dataset->count = get_u32(map + 8);
    dataset->input_bytes = get_u32(map + 12);
    uint64_t inputs = ((uint64_t)dataset->count * dataset->input_bytes + 3U) / 4U * 4U;
    if (dataset->count == 0U || dataset->input_bytes == 0U || HEADER_BYTES + inputs + 4U * (uint64_t)dataset->count != bytes) {
        return "has a size that does not match its header";
    }
    if (dataset->type == DATASET_FLOAT32 && dataset->input_bytes % 4U != 0U) {
        return "has float inputs of an impossible size";
    }
    dataset->inputs = map + HEADER_BYTES;
    dataset->labels = dataset->inputs + inputs;
    return NULL;
}

bool dataset_open(dataset_t *dataset, const char *path, char *error, uint32_t error_bytes)
{
    size_t bytes = 0;
    errno = 0;
    const uint8_t *map = map_file(path, &bytes);
    const char *problem = map != NULL ? read_header(dataset, map, bytes) : errno != 0 ? strerror(errno) : "is empty";
    if (problem != NULL) {
        (void)snprintf(error, error_bytes, "dataset %s: %s (make_dataset.py writes one)", path, problem);
    }
    return problem == NULL;
}

const void *dataset_input(const dataset_t *dataset, uint32_t index)
{
    return dataset->inputs + (size_t)index * dataset->input_bytes;
}

int32_t dataset_label(const dataset_t *dataset, uint32_t index)
{
    return (int32_t)get_u32(dataset->labels + (size_t)index * 4U);
}
