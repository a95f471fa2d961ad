/* SPDX-License-Identifier: Apache-2.0 */
#include "board.h"

enum { SYS_OPEN = 0x01, SYS_WRITE0 = 0x04, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
enum { OPEN_BINARY = 1, APPLICATION_EXIT = 0x20026 };
static const uint32_t unused_stack = 0xa5a5a5a5u;

extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[], stack_limit[], stack_top[];

#ifdef __riscv

static intptr_t semihosting(intptr_t operation, const void *block)
{
    register intptr_t a0 __asm__("a0") = operation;
    register const void *a1 __asm__("a1") = block;
    __asm__ volatile(".balign 16\n.option push\n.option norvc\nslli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n.option pop"
                     : "+r"(a0) : "r"(a1) : "memory");
    return a0;
}

uint32_t board_ticks(void)
{
    uint32_t count;
    __asm__ volatile(".option push\n.option arch, +zicsr\ncsrr %0, minstret\n.option pop" : "=r"(count));
    return count;
}

uint32_t board_ticks_since(uint32_t begin)
{
    return board_ticks() - begin;
}

static void set_up(void)
{
}

void start(void);

__attribute__((naked, section(".vectors"))) void reset(void)
{
    __asm__ volatile("la sp, stack_top\nj start");
}

#else

static volatile uint32_t *const systick = (volatile uint32_t *)0xe000e010; /* control, reload, value */
static volatile uint32_t *const cpacr = (volatile uint32_t *)0xe000ed88;

static intptr_t semihosting(intptr_t operation, const void *block)
{
    register intptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

/* SysTick counts down, 24 bits: 32 million instructions at 32 MHz and 16 ns each */
uint32_t board_ticks(void)
{
    return systick[2];
}

uint32_t board_ticks_since(uint32_t begin)
{
    return (begin - board_ticks()) & 0xffffffu;
}

static void set_up(void)
{
    *cpacr |= 0xfu << 20; /* coprocessors 10 and 11: FPU and Helium, where there are any */
    systick[1] = 0xffffffu;
    systick[2] = 0;
    systick[0] = 5; /* on, counting the processor's clock */
}

void start(void);

/* On a fault the emulator ends with a message: there is no handler. */
__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    void (*start)(void);
} vectors = {stack_top, start};

#endif

/* Fills what lies below this function's frame. */
static void mark_stack(void)
{
    uint32_t here, *p;
    for (p = stack_limit; (uintptr_t)p + 64 < (uintptr_t)&here; p++)
        *(volatile uint32_t *)p = unused_stack;
}

static void board_exit(int status)
{
    const intptr_t block[2] = {APPLICATION_EXIT, status};
    semihosting(SYS_EXIT_EXTENDED, block);
}

void start(void)
{
    uint32_t *from = data_load, *to;
    for (to = data_start; to < data_end; to++)
        *to = *from++;
    for (to = bss_start; to < bss_end; to++)
        *(volatile uint32_t *)to = 0;
    mark_stack();
    set_up();
    board_exit(main());
    for (;;) {
    }
}

uint32_t board_stack_used(void)
{
    const uint32_t *p = stack_limit;
    while (*p == unused_stack)
        p++;
    return (uint32_t)((const char *)stack_top - (const char *)p);
}

int board_open(const char *name)
{
    uint32_t length = 0;
    intptr_t block[3];
    while (name[length])
        length++;
    block[0] = (intptr_t)name;
    block[1] = OPEN_BINARY;
    block[2] = (intptr_t)length;
    return (int)semihosting(SYS_OPEN, block);
}

uint32_t board_read(int file, void *to, uint32_t size)
{
    const intptr_t block[3] = {file, (intptr_t)to, (intptr_t)size};
    return size - (uint32_t)semihosting(SYS_READ, block); /* it returns what is missing */
}

void board_print(const char *text)
{
    semihosting(SYS_WRITE0, text);
}

void board_print_number(int32_t value)
{
    char text[12], *p = text + sizeof text - 1;
    uint32_t rest = value < 0 ? 0u - (uint32_t)value : (uint32_t)value;
    *p = 0;
    do
        *--p = (char)('0' + rest % 10);
    while (rest /= 10);
    if (value < 0)
        *--p = '-';
    board_print(p);
}
