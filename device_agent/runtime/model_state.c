/* The state buffer: compiler/SPEC.md section 4a. */
#include "internal.h"

#include <string.h>

static const fleet_image_states_t *table_of(const fleet_model_t *model)
{
    const fleet_image_header_t *header = fleet_header(model);
    return (const void *)(model->image + header->golden_offset + header->golden_bytes);
}

static void fill_halfwords(uint8_t *at, uint32_t bytes, int32_t value)
{
    for (uint32_t i = 0; i < bytes; i += 2u) {
        at[i] = (uint8_t)((uint32_t)value & 0xffu);
        at[i + 1u] = (uint8_t)((uint32_t)value >> 8 & 0xffu);
    }
}

/* Types of four bytes begin at zero. */
static void fill_entry(const fleet_model_t *model, const fleet_image_state_t *entry)
{
    uint8_t *at = model->state + entry->state_offset;
    if (entry->data != FLEET_NO_OFFSET) {
        memcpy(at, model->image + entry->data, entry->size_bytes);
    } else if (entry->element == FLEET_ELEMENT_INT16) {
        fill_halfwords(at, entry->size_bytes, entry->fill);
    } else {
        memset(at, (uint8_t)entry->fill, entry->size_bytes);
    }
}

fleet_status_t fleet_state_check(const fleet_model_t *model)
{
    return fleet_header(model)->state_bytes != 0u && model->state == NULL ? FLEET_ERR_STATE : FLEET_OK;
}

fleet_status_t fleet_model_attach_state(fleet_model_t *model, void *state, size_t state_bytes)
{
    if (model == NULL || (state == NULL && fleet_header(model)->state_bytes != 0u)) {
        return FLEET_ERR_ARGUMENT;
    }
    if (state_bytes < fleet_header(model)->state_bytes) {
        return FLEET_ERR_STATE;
    }
    if (!fleet_is_aligned(state, FLEET_IMAGE_SECTION_ALIGN)) {
        return FLEET_ERR_ALIGNMENT;
    }
    model->state = state;
    return fleet_model_reset_state(model);
}

fleet_status_t fleet_model_reset_state(const fleet_model_t *model)
{
    if (model == NULL) {
        return FLEET_ERR_ARGUMENT;
    }
    const fleet_status_t status = fleet_state_check(model);
    if (status != FLEET_OK || fleet_header(model)->state_bytes == 0u) {
        return status;
    }
    const fleet_image_states_t *table = table_of(model);
    const fleet_image_state_t *entries = (const void *)(table + 1);
    for (uint32_t i = 0; i < table->count; i++) {
        fill_entry(model, &entries[i]);
    }
    return FLEET_OK;
}
