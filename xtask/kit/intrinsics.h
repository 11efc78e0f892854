/*
 * Included before every driver in C: what Microsoft's compiler does by itself and clang does not.
 */
#pragma once

#include <stddef.h>
#include <intrin.h>

/* cr8 is the IRQL on x64. clang declares the two and has no code for them. */
#define __readcr8 KitReadCr8
#define __writecr8 KitWriteCr8

static __inline__ __attribute__((always_inline)) unsigned __int64 KitReadCr8(void) {
  unsigned __int64 value;
  __asm__ volatile("mov %%cr8, %0" : "=r"(value) : : "memory");
  return value;
}

static __inline__ __attribute__((always_inline)) void KitWriteCr8(unsigned __int64 value) {
  __asm__ volatile("mov %0, %%cr8" : : "r"(value) : "memory");
}

/* What the compiler refers to where floating point is used. */
__declspec(selectany) int _fltused = 1;
