/* Start-up of an Arm Cortex-M4 on the MPS2+ board (AN386), which qemu-system-arm emulates. newlib's
 * semihosting (rdimon) does the rest: it clears .bss, opens files of the host and prints. */
#include <stdint.h>

extern uint32_t stack_top;
extern void _start(void);

typedef union {
    const void *stack;
    void (*handler)(void);
} vector_t;

static void fault(void)
{
    for (;;) {
    }
}

/* Initial stack, reset, NMI, hard fault. */
__attribute__((section(".vectors"), used)) static const vector_t vectors[] = {
    {.stack = &stack_top},
    {.handler = _start},
    {.handler = fault},
    {.handler = fault},
};
