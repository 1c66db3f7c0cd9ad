/* image.tfm read into RAM. */
#include "bench.h"

#define IMAGE_BYTES (8u << 20)

static uint8_t image[IMAGE_BYTES] __attribute__((section(".psram"), aligned(16)));

const uint8_t *fleet_bench_image(size_t *bytes)
{
    const int file = fleet_host_open("image.tfm", FLEET_HOST_READ);
    *bytes = file < 0 ? 0u : fleet_host_read(file, image, sizeof(image));
    return image;
}
