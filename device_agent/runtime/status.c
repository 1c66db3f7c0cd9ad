#include "fleet_status.h"

#define FLEET_STATUS_CASE(name, value, text) \
    case name:                               \
        return text;

const char *fleet_status_text(fleet_status_t status)
{
    switch (status) {
        FLEET_STATUS_LIST(FLEET_STATUS_CASE)
    }
    return "unknown status: the caller is newer than this library";
}
