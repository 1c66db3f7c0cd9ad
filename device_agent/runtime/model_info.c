#include "internal.h"

#include <string.h>

static const char *text_at(const fleet_model_t *model, uint32_t offset)
{
    return (const char *)model->image + offset;
}

void fleet_model_info(const fleet_model_t *model, fleet_model_info_t *info)
{
    const fleet_image_header_t *header = fleet_header(model);
    info->name = text_at(model, header->name_offset);
    info->version = text_at(model, header->version_offset);
    info->device_class = header->device_class;
    info->image_bytes = header->image_bytes;
    info->abi = header->abi;
    info->kernel_set = header->kernel_set;
    info->arena_bytes = header->arena_bytes;
    info->state_bytes = header->state_bytes;
    info->op_count = header->op_count;
    info->input_count = header->input_count;
    info->output_count = header->output_count;
    info->label_count = header->label_count;
}

static void describe(const fleet_model_t *model, const fleet_image_io_t *io, fleet_tensor_t *tensor)
{
    tensor->name = text_at(model, io->name_offset);
    tensor->element = io->element;
    tensor->arena_offset = io->arena_offset;
    tensor->size_bytes = io->size_bytes;
    tensor->rank = io->rank;
    memcpy(tensor->dims, io->dims, sizeof(tensor->dims));
    tensor->scale = io->scale;
    tensor->zero_point = io->zero_point;
}

fleet_status_t fleet_model_input_info(const fleet_model_t *model, uint32_t index, fleet_tensor_t *tensor)
{
    if (index >= fleet_header(model)->input_count) {
        return FLEET_ERR_ARGUMENT;
    }
    describe(model, fleet_io(model, index), tensor);
    return FLEET_OK;
}

fleet_status_t fleet_model_output_info(const fleet_model_t *model, uint32_t index, fleet_tensor_t *tensor)
{
    const fleet_image_header_t *header = fleet_header(model);
    if (index >= header->output_count) {
        return FLEET_ERR_ARGUMENT;
    }
    describe(model, fleet_io(model, header->input_count + index), tensor);
    return FLEET_OK;
}

const char *fleet_model_label(const fleet_model_t *model, uint32_t index)
{
    const fleet_image_header_t *header = fleet_header(model);
    const char *end = text_at(model, header->strings_offset) + header->strings_bytes;
    const char *label = text_at(model, header->labels_offset);
    if (index >= header->label_count) {
        return NULL;
    }
    for (uint32_t i = 0; i < index && label < end; i++) {
        label += strlen(label) + 1u;
    }
    return label < end ? label : NULL;
}
