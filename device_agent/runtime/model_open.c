/* Structure of a whole image: compiler/SPEC.md section 9 points 1 to 4. */
#include "cascade.h"

#define MAX_ARENA_BYTES 0x7fffffffu /* offsets and sizes of tensors fit int32 */

static int part_is_legal(const fleet_image_header_t *header, uint32_t offset, uint64_t bytes)
{
    return offset % 4u == 0u && fleet_inside(offset, bytes, header->image_bytes);
}

static int section_is_legal(const fleet_image_header_t *header, uint32_t offset, uint64_t bytes)
{
    return offset % FLEET_IMAGE_SECTION_ALIGN == 0u && fleet_inside(offset, bytes, header->image_bytes);
}

static fleet_status_t check_identity(const fleet_image_header_t *header, size_t bytes)
{
    if (header->magic != FLEET_IMAGE_MAGIC) {
        return FLEET_ERR_MAGIC;
    }
    if (header->format_version != FLEET_IMAGE_FORMAT_VERSION || header->header_bytes != sizeof(*header)) {
        return FLEET_ERR_VERSION;
    }
    if (header->abi != FLEET_IMAGE_ABI) {
        return FLEET_ERR_ABI;
    }
    if (header->kernel_set != FLEET_IMAGE_KERNEL_SET_PORTABLE ||
        header->kernel_set_version != FLEET_IMAGE_KERNEL_SET_VERSION) {
        return FLEET_ERR_KERNEL_SET;
    }
    return header->image_bytes > bytes || header->image_bytes < sizeof(*header) ? FLEET_ERR_TRUNCATED : FLEET_OK;
}

static int device_class_is_legal(const fleet_image_header_t *header)
{
    return header->device_class[sizeof(header->device_class) - 1u] == '\0';
}

static int string_is_legal(const fleet_image_header_t *header, uint32_t offset)
{
    return offset >= header->strings_offset && offset - header->strings_offset < header->strings_bytes;
}

static int strings_are_legal(const fleet_image_header_t *header, const uint8_t *image)
{
    return header->strings_bytes != 0u && part_is_legal(header, header->strings_offset, header->strings_bytes) &&
           image[header->strings_offset + header->strings_bytes - 1u] == 0u &&
           string_is_legal(header, header->name_offset) && string_is_legal(header, header->version_offset) &&
           string_is_legal(header, header->labels_offset) && header->label_count <= header->strings_bytes;
}

static int header_is_legal(const fleet_image_header_t *header, const uint8_t *image)
{
    return header->flags == 0u && header->state_bytes <= MAX_ARENA_BYTES &&
           header->image_bytes % FLEET_IMAGE_SECTION_ALIGN == 0u &&
           header->arena_bytes <= MAX_ARENA_BYTES && header->scratch_bytes <= header->arena_bytes &&
           header->op_count != 0u && header->input_count != 0u && header->output_count != 0u &&
           device_class_is_legal(header) && strings_are_legal(header, image);
}

static int codes_are_legal(const fleet_image_io_t *io, uint64_t elements)
{
    if (io->element == FLEET_ELEMENT_FLOAT32 || io->element == FLEET_ELEMENT_INT32) {
        return elements * 4u == io->size_bytes && io->arena_offset % 4u == 0u && io->zero_point == 0;
    }
    if (io->element == FLEET_ELEMENT_INT16) {
        return elements * 2u == io->size_bytes && io->arena_offset % 2u == 0u && io->zero_point >= INT16_MIN &&
               io->zero_point <= INT16_MAX;
    }
    return io->element == FLEET_ELEMENT_INT8 && elements == io->size_bytes && io->zero_point >= INT8_MIN &&
           io->zero_point <= INT8_MAX;
}

static int io_is_legal(const fleet_image_header_t *header, const fleet_image_io_t *io)
{
    uint64_t size = 1;
    for (uint32_t axis = 0; axis < 4u; axis++) {
        size *= io->dims[axis];
        if (size == 0u || size > header->arena_bytes || (axis >= io->rank && io->dims[axis] != 1u)) {
            return 0;
        }
    }
    return io->rank >= 1u && io->rank <= 4u && codes_are_legal(io, size) &&
           fleet_inside(io->arena_offset, io->size_bytes, header->arena_bytes) && io->scale > 0.0f &&
           io->scale < 1e38f && io->source_layout <= FLEET_LAYOUT_CHANNELS_FIRST && string_is_legal(header, io->name_offset);
}

static int ios_are_legal(const fleet_image_header_t *header, const uint8_t *image)
{
    const uint64_t count = (uint64_t)header->input_count + header->output_count;
    if (!part_is_legal(header, header->io_offset, count * sizeof(fleet_image_io_t))) {
        return 0;
    }
    const fleet_image_io_t *io = (const void *)(image + header->io_offset);
    for (uint64_t i = 0; i < count; i++) {
        if (!io_is_legal(header, &io[i])) {
            return 0;
        }
    }
    return 1;
}

/* Their values are fleet_model_verify's, which reads every byte anyway. */
static int channels_are_legal(const fleet_image_header_t *header)
{
    const uint64_t count = header->channel_count;
    if (count == 0u) {
        return 1;
    }
    return section_is_legal(header, header->multipliers_offset, count * 4u) &&
           section_is_legal(header, header->shifts_offset, count) &&
           section_is_legal(header, header->biases_offset, count * 4u);
}

/* No kernel follows the table's entries, so they are fleet_model_verify's too. */
static int sections_are_legal(const fleet_image_header_t *header)
{
    const uint64_t bytes = (uint64_t)header->section_count * sizeof(fleet_image_section_t);
    return part_is_legal(header, header->sections_offset, bytes);
}

static int golden_is_legal(const fleet_image_header_t *header, const uint8_t *image)
{
    if (header->golden_bytes < sizeof(fleet_image_golden_t) || header->golden_bytes > FLEET_IMAGE_GOLDEN_MAX_BYTES ||
        !part_is_legal(header, header->golden_offset, header->golden_bytes)) {
        return 0;
    }
    const fleet_image_golden_t *golden = (const void *)(image + header->golden_offset);
    const uint64_t seeds = (uint64_t)golden->vector_count * FLEET_IMAGE_GOLDEN_SEED_BYTES;
    return golden->vector_count != 0u && golden->op_count == header->op_count &&
           seeds + sizeof(*golden) == header->golden_bytes;
}

/* Where the walk through the op records stands. */
typedef struct {
    uint32_t index;
    uint32_t behind;  /* op after the last cascade begun */
    uint32_t cascade; /* offset of the next cascade */
    const fleet_image_cascade_t *inside; /* cascade begun last */
} walk_t;

static int begin_cascade(const fleet_image_header_t *header, walk_t *walk)
{
    const uint32_t left = header->cascades_bytes - walk->cascade;
    if (left == 0u) {
        return 1;
    }
    const fleet_image_cascade_t *next =
        (const void *)((const uint8_t *)header + header->cascades_offset + walk->cascade);
    if (!fleet_cascade_is_legal(header, next, left, walk->behind)) {
        return 0;
    }
    if (next->first_op == walk->index) {
        walk->inside = next;
        walk->behind = walk->index + next->op_count;
        walk->cascade += fleet_cascade_bytes(next);
    }
    return 1;
}

static fleet_status_t check_next(const fleet_image_header_t *header, const fleet_op_t *op, walk_t *walk)
{
    if (walk->index >= walk->behind && !begin_cascade(header, walk)) {
        return FLEET_ERR_LAYOUT;
    }
    return walk->index < walk->behind
               ? fleet_cascade_op_check(header, op, walk->inside, walk->index - walk->inside->first_op)
               : fleet_op_check(header, op);
}

static fleet_status_t check_ops(const fleet_image_header_t *header, const uint8_t *image)
{
    if (!part_is_legal(header, header->ops_offset, header->ops_bytes) ||
        !part_is_legal(header, header->cascades_offset, header->cascades_bytes)) {
        return FLEET_ERR_LAYOUT;
    }
    const uint8_t *ops = image + header->ops_offset;
    walk_t walk = {0, 0, 0, NULL};
    uint32_t at = 0;
    for (; walk.index < header->op_count; walk.index++) {
        const uint32_t left = header->ops_bytes - at;
        const fleet_op_t *op = (const void *)(ops + at);
        if (left < sizeof(*op) || op->record_bytes < sizeof(*op) || op->record_bytes > left ||
            op->record_bytes % 4u != 0u) {
            return FLEET_ERR_LAYOUT;
        }
        const fleet_status_t status = check_next(header, op, &walk);
        if (status != FLEET_OK) {
            return status;
        }
        at += op->record_bytes;
    }
    return at == header->ops_bytes && walk.cascade == header->cascades_bytes ? FLEET_OK : FLEET_ERR_LAYOUT;
}

fleet_status_t fleet_model_open(fleet_model_t *model, const void *image, size_t image_bytes)
{
    const fleet_image_header_t *header = image;
    if (model == NULL || image == NULL) {
        return FLEET_ERR_ARGUMENT;
    }
    const uint16_t probe = 1;
    if (*(const uint8_t *)&probe != 1u) {
        return FLEET_ERR_PLATFORM;
    }
    if (!fleet_is_aligned(image, FLEET_IMAGE_SECTION_ALIGN)) {
        return FLEET_ERR_ALIGNMENT;
    }
    if (image_bytes < sizeof(*header)) {
        return FLEET_ERR_TRUNCATED;
    }
    fleet_status_t status = check_identity(header, image_bytes);
    if (status == FLEET_OK && (!header_is_legal(header, image) || !ios_are_legal(header, image) ||
                               !sections_are_legal(header) || !channels_are_legal(header) ||
                               !golden_is_legal(header, image) || !fleet_states_are_legal(header, image))) {
        status = FLEET_ERR_LAYOUT;
    }
    if (status == FLEET_OK) {
        status = check_ops(header, image);
    }
    if (status == FLEET_OK) {
        model->image = image;
        model->image_bytes = header->image_bytes;
        model->state = NULL;
    }
    return status;
}
