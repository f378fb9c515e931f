// Matrix products on AVX512-BF16: bfloat16 operands, float32 sums.
//
// B is packed in panels of 64 columns, two rows of it beside each other as the instruction wants
// them: panel[k / 2][column] is a pair of bfloat16. Weights stay float32 in memory and become
// bfloat16 while they are packed, so no second copy of a model is ever held. A panel lies in the
// second-level cache while all rows of A pass by. What becomes of the sums (bias, GELU, residual)
// is a functor that gets them in registers.
#pragma once
#include "vectors.h"

using pair = uint32_t;  // two bfloat16

constexpr long PANEL = 64;  // columns of a panel: four vectors
constexpr long STRIP = 16;  // rows of a packed transposed A

// Lanes of two rows as pairs: row 0 in the low halves.
inline __m512i interleave(__m512 low, __m512 high) {
  __m512i l = _mm512_cvtepu16_epi32(narrow(low)), h = _mm512_cvtepu16_epi32(narrow(high));
  return _mm512_or_si512(l, _mm512_slli_epi32(h, 16));
}

struct Same {  // what is packed as it is
  __m512 operator()(__m512 x, long) const { return x; }
};

constexpr long RUN = 8;  // lines written one after another: what is packed lies powers of two apart

// Panels side by side = the n columns of src (k, n), each value through f(value, its vector's column).
template <class T, class F = Same>
void pack_rows(const T* src, long ld, long k, long n, pair* panels, F f = F()) {
  long pairs = (k + 1) / 2;
  for (long start = 0; start < pairs; start += RUN)
    for (long j = 0; j < n; j += 16) {
      __mmask16 m = first(n - j);
      pair* to = panels + j / PANEL * pairs * PANEL + j % PANEL;
      for (long r = start; r < std::min(pairs, start + RUN); r++) {
        __m512 low = f(load(src + 2 * r * ld + j, m), j), high = _mm512_setzero_ps();
        if (2 * r + 1 < k) high = f(load(src + (2 * r + 1) * ld + j, m), j);
        _mm512_store_si512(to + r * PANEL, _mm512_maskz_mov_epi32(m, interleave(low, high)));
      }
    }
  for (long j = (n + 15) / 16 * 16; j % PANEL; j += 16)  // the last panel's end
    for (long r = 0; r < pairs; r++)
      _mm512_store_si512(panels + (j / PANEL * pairs + r) * PANEL + j % PANEL, _mm512_setzero_si512());
}

// Sixteen pairs of a row; k is even and `some` says how many pairs are there.
inline __m512i pairs_of(const bf16* p, __mmask16 some) {
  return _mm512_maskz_loadu_epi32(some, p);
}
inline __m512i pairs_of(const float* p, __mmask16 some) {
  __mmask32 wide = _pdep_u32(some, 0x55555555u) * 3u;  // each pair is two values
  __m512 a = _mm512_maskz_loadu_ps((__mmask16)wide, p);
  __m512 b = _mm512_maskz_loadu_ps((__mmask16)(wide >> 16), p + 16);
  return (__m512i)_mm512_cvtne2ps_pbh(b, a);
}

// Transpose a 16 x 16 block of 32-bit values.
inline void transpose(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// Panels side by side = the n rows of src (n, k), k even, as columns.
template <class T>
void pack_columns(const T* src, long ld, long k, long n, pair* panels) {
  for (long j = 0; j < (n + PANEL - 1) / PANEL * PANEL; j += 16) {
    pair* to = panels + j / PANEL * (k / 2) * PANEL + j % PANEL;
    for (long c = 0; c < k; c += 32) {
      __m512i block[16];
      __mmask16 some = first((k - c) / 2);
      for (int i = 0; i < 16; i++)
        block[i] = j + i < n ? pairs_of(src + (j + i) * ld + c, some) : _mm512_setzero_si512();
      transpose(block);
      for (long i = 0; i < std::min(16L, (k - c) / 2); i++)
        _mm512_store_si512(to + (c / 2 + i) * PANEL, block[i]);
    }
  }
}

// Strips `from` .. `to` of src (k, m) transposed, as [m / 16][k / 2][16]: the A of a product whose sum
// runs over the rows of src. Adds the columns of src up, if asked.
inline void pack_strips(const bf16* src, long ld, long k, long m, long from, long to, pair* strips,
                        float* sums) {
  long rows = (k + 1) / 2;
  for (long start = 0; start < rows; start += RUN)
    for (long b = from; b < to; b++) {
      __mmask16 some = first(m - b * STRIP);
      __m512 sum = _mm512_setzero_ps();
      for (long r = start; r < std::min(rows, start + RUN); r++) {
        __m512 low = load(src + 2 * r * ld + b * STRIP, some), high = _mm512_setzero_ps();
        if (2 * r + 1 < k) high = load(src + (2 * r + 1) * ld + b * STRIP, some);
        _mm512_storeu_si512(strips + (b * rows + r) * STRIP, interleave(low, high));
        sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
      }
      float* s = sums + b * STRIP;
      if (sums) store(s, _mm512_add_ps(load(s, some), sum), some);
    }
}

// R rows of A against a panel; a[i * row + k * pair] is the pair k of row i.
template <int R, class Out>
inline __attribute__((always_inline)) void tile(const pair* a, long row, long step, const pair* panel,
                                                long pairs, long i0, const Out& out) {
  __m512 c[R][4];
  for (int i = 0; i < R; i++)
    for (int j = 0; j < 4; j++) c[i][j] = _mm512_setzero_ps();
  for (long k = 0; k < pairs; k++) {
    __m512bh b[4];
    for (int j = 0; j < 4; j++) b[j] = (__m512bh)_mm512_load_si512(panel + k * PANEL + 16 * j);
    for (int i = 0; i < R; i++) {
      __m512bh x = (__m512bh)_mm512_set1_epi32(a[i * row + k * step]);
      for (int j = 0; j < 4; j++) c[i][j] = _mm512_dpbf16_ps(c[i][j], x, b[j]);
    }
  }
  for (int i = 0; i < R; i++)
    for (int j = 0; j < 4; j++) out(i0 + i, 16 * j, c[i][j]);
}

// out() with its columns counted from panel p on.
template <class Out>
auto shifted(const Out& out, long p) {
  return [&out, p](long i, long j, __m512 c) { out(i, p * PANEL + j, c); };
}

// Rows from .. to of a row-major A (bfloat16, `ld` values a row) against panels lying side by side.
template <class Out>
void rows_by_panels(const bf16* a, long ld, long from, long to, const pair* panels, long count, long pairs,
                    const Out& out) {
  const pair* rows = (const pair*)a;
  long row = ld / 2, i = from;
  auto pass = [&](auto tiled) {
    for (long p = 0; p < count; p++) tiled(rows + i * row, panels + p * pairs * PANEL, shifted(out, p));
  };
  for (; i + 6 <= to; i += 6)
    pass([&](auto a, auto b, auto o) { tile<6>(a, row, 1, b, pairs, i, o); });
  for (; i + 4 <= to; i += 4)
    pass([&](auto a, auto b, auto o) { tile<4>(a, row, 1, b, pairs, i, o); });
  for (; i < to; i++) pass([&](auto a, auto b, auto o) { tile<1>(a, row, 1, b, pairs, i, o); });
}

// The same for strips; `from` is a multiple of STRIP.
template <class Out>
void strips_by_panels(const pair* strips, long from, long to, const pair* panels, long count, long pairs,
                      const Out& out) {
  for (long i = from; i < to; i += STRIP)
    for (long p = 0; p < count; p++) {
      const pair *a = strips + i / STRIP * pairs * STRIP, *b = panels + p * pairs * PANEL;
      auto o = shifted(out, p);
      if (i + STRIP <= to) {
        tile<6>(a, 1, STRIP, b, pairs, i, o);
        tile<6>(a + 6, 1, STRIP, b, pairs, i + 6, o);
        tile<4>(a + 12, 1, STRIP, b, pairs, i + 12, o);
      } else {
        for (long r = i; r < to; r++) tile<1>(a + (r - i), 1, STRIP, b, pairs, r, o);
      }
    }
}

// For the n columns of B, as many panels at a time as the second-level cache holds, so that A is read
// once for all of them: pack(first column, columns, buffer), then multiply(first column, panels, first
// row, last row, buffer). Groups that do not share out evenly are cut along the m rows as well.
template <class Pack, class Multiply>
void for_panels(long m, long n, long pairs, Pack pack, Multiply multiply) {
  constexpr long CACHE = 640 * 1024, UNIT = 48;  // bytes of panels; rows
  long panels = (n + PANEL - 1) / PANEL, threads = omp_get_max_threads();
  long fitting = CACHE / (pairs * PANEL * (long)sizeof(pair));
  long group = std::max(1L, std::min(fitting, (panels + threads - 1) / threads));
  long groups = (panels + group - 1) / group, units = (m + UNIT - 1) / UNIT;
  long cuts = groups % threads ? std::min(units, (4 * threads + groups - 1) / groups) : 1;
#pragma omp parallel
  {
    pair* buffer = scratch<pair>(1, pairs * PANEL * group);
    long packed = -1;
#pragma omp for schedule(static)
    for (long t = 0; t < groups * cuts; t++) {
      long g = t / cuts, c = t % cuts, count = std::min(group, panels - g * group);
      long column = g * group * PANEL;
      if (g != packed) pack(column, std::min(n - column, count * PANEL), buffer);
      packed = g;
      long from = units * c / cuts * UNIT, to = std::min(m, units * (c + 1) / cuts * UNIT);
      multiply(column, count, from, to, buffer);
    }
  }
}
