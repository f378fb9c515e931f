// Sixteen float32 at a time: loads, stores, 2^x, and memory that a thread keeps.
#pragma once
#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

using bf16 = uint16_t;

inline __m512 widen(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
inline __m256i narrow(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }  // to nearest even

inline __m512 load(const float* p) { return _mm512_loadu_ps(p); }
inline __m512 load(const bf16* p) { return widen(_mm256_loadu_si256((const __m256i*)p)); }
inline void store(float* p, __m512 x) { _mm512_storeu_ps(p, x); }
inline void store(bf16* p, __m512 x) { _mm256_storeu_si256((__m256i*)p, narrow(x)); }

// The lanes of a mask only. Whole vectors go the plain way: masked stores are slow.
constexpr __mmask16 ALL = 0xffff;
inline __m512 load(const float* p, __mmask16 m) {
  return m == ALL ? load(p) : _mm512_maskz_loadu_ps(m, p);
}
inline __m512 load(const bf16* p, __mmask16 m) {
  return m == ALL ? load(p) : widen(_mm256_maskz_loadu_epi16(m, p));
}
inline void store(float* p, __m512 x, __mmask16 m) {
  m == ALL ? store(p, x) : _mm512_mask_storeu_ps(p, m, x);
}
inline void store(bf16* p, __m512 x, __mmask16 m) {
  m == ALL ? store(p, x) : _mm256_mask_storeu_epi16(p, m, narrow(x));
}

// The first n of 16 lanes.
inline __mmask16 first(long n) { return n >= 16 ? ALL : n <= 0 ? 0 : (1u << n) - 1; }

// Memory of a thread, kept from call to call: slot says which of its buffers.
template <class T>
T* scratch(int slot, size_t count) {
  struct Buffer {
    void* data = nullptr;
    size_t bytes = 0;
    ~Buffer() { free(data); }
  };
  thread_local Buffer buffers[16];
  Buffer& b = buffers[slot];
  size_t bytes = (count * sizeof(T) + 4096) / 4096 * 4096;
  if (b.bytes < bytes) {
    free(b.data);
    b.data = aligned_alloc(4096, bytes);
    b.bytes = bytes;
  }
  return (T*)b.data;
}

constexpr float LOG2E = 1.4426950408889634f;

inline __m512 set(float x) { return _mm512_set1_ps(x); }

// 2^x, relative error below 3e-6; 2^-126 for anything smaller.
inline __m512 exp2(__m512 x) {
  x = _mm512_max_ps(x, set(-126.f));
  __m512 n = _mm512_roundscale_ps(x, 8), f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_fmadd_ps(set(1.3333558e-3f), f, set(9.6181291e-3f));
  p = _mm512_fmadd_ps(p, f, set(5.5504109e-2f));
  p = _mm512_fmadd_ps(p, f, set(2.4022651e-1f));
  p = _mm512_fmadd_ps(p, f, set(6.9314718e-1f));
  p = _mm512_fmadd_ps(p, f, set(1.f));
  return _mm512_scalef_ps(p, n);
}
