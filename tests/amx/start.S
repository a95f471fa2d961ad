/* SPDX-License-Identifier: Apache-2.0 */
/* The first instructions at 1 MB, in long mode: a stack, the registers of AVX-512 and AMX, then `main`. */
    .section .text.start, "ax"
    .globl _start
_start:
    mov $0x90000, %rsp
    xor %ecx, %ecx
    mov $0x602e7, %eax /* XCR0: x87, SSE, AVX, AVX-512, tiles */
    xor %edx, %edx
    xsetbv
    call main
1:  hlt
    jmp 1b

    .section .rodata
    .globl cases, cases_end
    .balign 64
cases:
    .incbin "cases.bin"
cases_end:
    .section .note.GNU-stack, "", @progbits
