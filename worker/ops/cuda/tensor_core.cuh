// The tensor cores' instructions for bf16: 16 x 8 outputs from 16 inputs, and loads of their
// fragments from shared memory.
//
// Lane l of a warp holds, with r = l / 4 and c = 2 * (l % 4):
//   a (16 x 16, row-major)    a[0] rows r, inputs c c+1    a[1] rows r+8    a[2], a[3] inputs + 8
//   b (16 x 8, column-major)  b[0] column r, inputs c c+1  b[1] inputs + 8
//   d (16 x 8)                d[0] d[1] row r, columns c c+1    d[2] d[3] row r + 8
#pragma once

#include <cstdint>

namespace tailor::cuda {

// Two floats as a register of bf16, to nearest even; `low` in the lower half.
__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// (value & mask) | base in one instruction: written out, the compiler makes two of two constants.
__device__ __forceinline__ uint32_t AndOr(uint32_t value, uint32_t mask, uint32_t base) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(value), "r"(mask), "r"(base));
  return out;
}

// a * b + c of each half, rounded once.
__device__ __forceinline__ uint32_t FmaPairs(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// 16-byte piece `index` of weights that one block reads once, past L1; zeros where not `inside`.
// Volatile, as Mma is: issued before what follows in the program, so that it is under way
// meanwhile. The address is made here, so that no loop keeps one for each row.
__device__ __forceinline__ uint4 LoadStreaming(const void* pieces, int32_t index, bool inside) {
  uint4 out;
  asm volatile(
      "{\n.reg .pred p;\n.reg .b64 address;\nsetp.ne.b32 p, %6, 0;\n"
      "mad.wide.s32 address, %5, 16, %4;\n"
      "mov.b32 %0, 0;\nmov.b32 %1, 0;\nmov.b32 %2, 0;\nmov.b32 %3, 0;\n"
      "@p ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [address];\n}\n"
      : "=&r"(out.x), "=&r"(out.y), "=&r"(out.z), "=&r"(out.w)
      : "l"(pieces), "r"(index), "r"(static_cast<int>(inside)));
  return out;
}

__device__ __forceinline__ void Mma(float* d, const uint32_t* a, const uint32_t* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void LoadMatrix4(uint32_t* out, const uint16_t* address) {
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(address));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared)
               : "memory");
}
__device__ __forceinline__ void LoadMatrix4Transposed(uint32_t* out, const uint16_t* address) {
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(address));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared)
               : "memory");
}

// 16 bytes to shared memory without passing through registers; `bytes` below 16 leaves zeros.
__device__ __forceinline__ void CopyAsync(uint16_t* to, const uint16_t* from, int bytes) {
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(from),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void AwaitCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

}  // namespace tailor::cuda
