/*
 * A bootloader that does nothing but select: no libc, no start-up code, and RAM full of rubbish. The host's loader puts the cases at
 * CASES, each a flash and what its units are like; a line of semihosting output answers each.
 */
#include "fleet_boot.h"

#define CASES 0x21000000U
#define POISON 0xA5A5A5A5U

enum { SYS_WRITE0 = 0x04, SYS_EXIT = 0x18, UNREADABLE = 2 };

/* Of the linker script; only addresses mean something. */
extern uint32_t ram_start[], poison_end[], stack_top[];

/* In front of each case; flash follows, then a byte for each unit, all padded to 16 bytes. */
typedef struct {
    uint32_t flash_bytes;
    uint32_t erase_bytes;
    uint32_t program_bytes;
    uint32_t slot_bytes;
} case_t;

void boot_reset(void);

static int host(int operation, const void *argument) {
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void end(uint32_t reason) {
    for (;;) {
        (void)host(SYS_EXIT, (const void *)reason);
    }
}

static void fault(void) {
    (void)host(SYS_WRITE0, "fault\n");
    end(0x20023U);
}

static void put_hex(char *to, uint32_t value) {
    for (uint32_t i = 0; i < 8U; i++) {
        const uint32_t digit = value >> (28U - 4U * i) & 15U;
        to[i] = (char)(digit < 10U ? '0' + digit : 'a' + digit - 10U);
    }
}

/* status slot reason image_bytes */
static void print(fleet_status_t status, const fleet_boot_choice_t *choice) {
    char line[37];
    put_hex(line, (uint32_t)status);
    put_hex(line + 9, choice->slot);
    put_hex(line + 18, choice->reason);
    put_hex(line + 27, choice->image_bytes);
    line[8] = line[17] = line[26] = ' ';
    line[35] = '\n';
    line[36] = 0;
    (void)host(SYS_WRITE0, line);
}

static fleet_status_t read_flash(void *ctx, uint32_t offset, void *data, uint32_t bytes) {
    const case_t *given = ctx;
    const uint8_t *flash = (const uint8_t *)(given + 1);
    const uint8_t *units = flash + given->flash_bytes;
    for (uint32_t i = 0; i < bytes; i++) {
        if (units[(offset + i) / given->program_bytes] == UNREADABLE) {
            return FLEET_ERR_FLASH;
        }
        ((volatile uint8_t *)data)[i] = flash[offset + i];
    }
    return FLEET_OK;
}

static uint32_t padded(uint32_t bytes) {
    return (bytes + 15U) & ~15U;
}

static const case_t *answer(const case_t *given) {
    const fleet_flash_t flash = {.read = read_flash,
                                 .mapped = (const uint8_t *)(given + 1),
                                 .size = given->flash_bytes,
                                 .erase_bytes = given->erase_bytes,
                                 .program_bytes = given->program_bytes,
                                 .ctx = (void *)(uintptr_t)given};
    fleet_boot_choice_t choice;
    print(fleet_boot_select(&flash, given->slot_bytes, 0, &choice), &choice);
    const uint32_t bytes = padded(given->flash_bytes + given->flash_bytes / given->program_bytes);
    return (const case_t *)((uintptr_t)(given + 1) + bytes);
}

static void run(void) {
    const uint32_t count = *(const uint32_t *)CASES;
    const case_t *given = (const case_t *)(CASES + 16U);
    for (uint32_t i = 0; i < count; i++) {
        given = answer(given);
    }
    end(0x20026U);
}

/* Everything but this frame is rubbish, as after power on. */
void boot_reset(void) {
    for (volatile uint32_t *word = ram_start; word < poison_end; word++) {
        *word = POISON;
    }
    run();
}

typedef void (*handler_t)(void);

typedef struct {
    uint32_t *stack;
    handler_t handlers[15];
} vectors_t;

__attribute__((section(".vectors"), used)) static const vectors_t vectors = {
    stack_top,
    {boot_reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fault},
};
