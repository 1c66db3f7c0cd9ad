/* What takes a pass over the whole image: compiler/SPEC.md section 9, last paragraph. */
#include "internal.h"

/* Kernels are defined whatever these values are; others than legal ones give wrong numbers. */
static int channels_are_legal(const fleet_image_header_t *header, const uint8_t *image)
{
    const int32_t *multipliers = (const void *)(image + header->multipliers_offset);
    const int8_t *shifts = (const void *)(image + header->shifts_offset);
    for (uint32_t i = 0; i < header->channel_count; i++) {
        if (multipliers[i] < 0 || shifts[i] < -31 || shifts[i] > 30) {
            return 0;
        }
    }
    return 1;
}

static int section_is_legal(const fleet_image_header_t *header, uint32_t offset, uint64_t bytes)
{
    return offset % FLEET_IMAGE_SECTION_ALIGN == 0u && fleet_inside(offset, bytes, header->image_bytes);
}

static uint64_t row_bytes(uint8_t element, uint64_t length)
{
    if (element == FLEET_ELEMENT_INT4) {
        return (length + 1u) / 2u;
    }
    return length * (element == FLEET_ELEMENT_INT8 ? 1u : element == FLEET_ELEMENT_INT16 ? 2u : 4u);
}

static int section_entry_is_legal(const fleet_image_header_t *header, const fleet_image_section_t *section)
{
    const uint64_t elements = (uint64_t)section->rows * section->row_length;
    /* The kind is for tools: kernels follow their records. */
    return section->kind != 0u &&
           section->element <= FLEET_ELEMENT_INT4 && section->packing <= FLEET_PACKING_CHANNELS_LAST &&
           elements <= header->image_bytes &&
           section_is_legal(header, section->offset, section->rows * row_bytes(section->element, section->row_length));
}

static int entries_are_legal(const fleet_image_header_t *header, const uint8_t *image)
{
    const fleet_image_section_t *sections = (const void *)(image + header->sections_offset);
    for (uint32_t i = 0; i < header->section_count; i++) {
        if (!section_entry_is_legal(header, &sections[i])) {
            return 0;
        }
    }
    return 1;
}

fleet_status_t fleet_model_verify(const fleet_model_t *model)
{
    if (model == NULL) {
        return FLEET_ERR_ARGUMENT;
    }
    const uint8_t *covered = model->image + FLEET_IMAGE_CRC_START;
    const uint32_t crc = fleet_crc32(0, covered, model->image_bytes - FLEET_IMAGE_CRC_START);
    if (crc != fleet_header(model)->crc32) {
        return FLEET_ERR_CRC;
    }
    const fleet_image_header_t *header = fleet_header(model);
    return channels_are_legal(header, model->image) && entries_are_legal(header, model->image) ? FLEET_OK : FLEET_ERR_LAYOUT;
}
