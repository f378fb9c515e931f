// A GPT's forward pass for the next few tokens of one row, its keys and values kept: decoding.
//
// Two kinds of matrices, k a multiple of 64: float32 as PyTorch has them (n, k), for some tokens at
// once; and int8 for one token, in panels of 16 rows, k after k, with a bfloat16 scale for 64 k's
// of each row.
// All is float32 but for the int8 weights. C features, H heads of D, N positions of room.
// Only for processors with AVX512.
#include "vectors.h"
#ifdef __AVX512BF16__

namespace {

constexpr long PANEL = 16, GROUP = 64, ROWS = 4, TILE = 6;
constexpr float EPS = 1e-5f;  // both releases, as LN_EPS in gpt.py

struct Map {
  const void* w;
  const bf16* scale;  // of int8 weights; none: float32
  const float* bias;  // may be none
  long n, k;
};

struct Part {  // a thread's share of `count` things
  long from, to;
  explicit Part(long count) {
    long t = omp_get_thread_num(), threads = omp_get_num_threads();
    from = count * t / threads;
    to = count * (t + 1) / threads;
  }
};

inline __m512 load_int8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}

void int8_panel(const int8_t* w, const bf16* scale, const float* x, long k, float* y) {
  __m512 total = _mm512_setzero_ps();
  for (long g = 0; g < k; g += GROUP, scale += PANEL) {
    __m512 sum[4] = {};
    for (long j = 0; j < GROUP; j += 4, w += 4 * PANEL) {
      _mm_prefetch((const char*)w + 4096, _MM_HINT_T0);  // a page ahead: one stream per thread
      for (int i = 0; i < 4; i++) {
        sum[i] = _mm512_fmadd_ps(set(x[g + j + i]), load_int8(w + i * PANEL), sum[i]);
      }
    }
    __m512 all = _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3]));
    total = _mm512_fmadd_ps(all, load(scale), total);
  }
  store(y, total);
}

// Four rows of w times six tokens: each weight is read once from memory and used from the cache.
void float_tile(const float* w, const float* x, long k, float* y, long ld, long rows) {
  __m512 sum[TILE][ROWS] = {};
  const float* row[ROWS];  // a tail computes its last row again and again
  for (long r = 0; r < ROWS; r++) row[r] = w + std::min(r, rows - 1) * k;
  for (long j = 0; j < k; j += 16) {
    __m512 a[ROWS];
    for (int r = 0; r < ROWS; r++) {
      a[r] = load(row[r] + j);
      _mm_prefetch((const char*)(row[r] + ROWS * k + j), _MM_HINT_T1);  // the next tile's
    }
    for (int i = 0; i < TILE; i++) {
      __m512 b = load(x + i * k + j);
      for (int r = 0; r < ROWS; r++) sum[i][r] = _mm512_fmadd_ps(a[r], b, sum[i][r]);
    }
  }
  for (int i = 0; i < TILE; i++) {
    for (int r = 0; r < ROWS; r++) {
      if (r < rows) y[i * ld + r] = _mm512_reduce_add_ps(sum[i][r]);
    }
  }
}

// y (m, ld) = x (m, k) w' for the rows [from, to) of w, multiples of a panel.
void multiply(const Map& map, const float* x, long m, float* y, long ld, long from, long to) {
  if (map.scale) {
    long groups = map.k / GROUP;
    for (long r = from; r < to; r += PANEL) {
      int8_panel((const int8_t*)map.w + r * map.k, map.scale + r * groups, x, map.k, y + r);
    }
    return;
  }
  for (long r = from; r < std::min(to, map.n); r += ROWS) {
    const float* w = (const float*)map.w + r * map.k;
    for (long i = 0; i < m; i += TILE) {
      float_tile(w, x + i * map.k, map.k, y + i * ld + r, ld, std::min(ROWS, map.n - r));
    }
  }
}

// Multiply, then hand each(row of y, column, vector, mask) the sums with the bias added.
template <class Each>
void apply(const Map& map, const float* x, long m, float* y, long ld, Each each) {
  Part panels((map.n + PANEL - 1) / PANEL);
  long from = panels.from * PANEL, to = panels.to * PANEL;
  multiply(map, x, m, y, ld, from, to);
  for (long i = 0; i < m; i++) {
    for (long r = from; r < to; r += PANEL) {
      __mmask16 mask = first(map.n - r);
      __m512 sum = load(y + i * ld + r, mask);
      if (map.bias) sum = _mm512_add_ps(sum, load(map.bias + r, mask));
      each(i, r, sum, mask);
    }
  }
#pragma omp barrier
}

__m512 gelu(__m512 x) {  // the tanh form: x times the logistic function of 2 u
  __m512 square = _mm512_mul_ps(x, x);
  __m512 u2 = _mm512_mul_ps(x, _mm512_fmadd_ps(square, set(0.0713548163f), set(1.5957691216f)));
  __m512 e = exp2(_mm512_min_ps(_mm512_mul_ps(u2, set(-LOG2E)), set(126.f)));
  return _mm512_div_ps(x, _mm512_add_ps(set(1.f), e));
}

void layer_norm(const float* x, const float* w, const float* b, float* y, long m, long c) {
  Part rows(m);
  for (long i = rows.from; i < rows.to; i++) {
    const float* row = x + i * c;
    __m512 sum = _mm512_setzero_ps(), square = sum;
    for (long j = 0; j < c; j += 16) sum = _mm512_add_ps(sum, load(row + j, first(c - j)));
    float mean = _mm512_reduce_add_ps(sum) / c;
    for (long j = 0; j < c; j += 16) {
      __m512 d = _mm512_maskz_sub_ps(first(c - j), load(row + j, first(c - j)), set(mean));
      square = _mm512_fmadd_ps(d, d, square);
    }
    float scale = 1 / std::sqrt(_mm512_reduce_add_ps(square) / c + EPS);
    for (long j = 0; j < c; j += 16) {
      __mmask16 mask = first(c - j);
      __m512 d = _mm512_mul_ps(_mm512_sub_ps(load(row + j, mask), set(mean)), set(scale));
      store(y + i * c + j, _mm512_fmadd_ps(d, load(w + j, mask), load(b + j, mask)), mask);
    }
  }
#pragma omp barrier
}

// One query over n keys and values (n, d): out (d).
void attend(const float* q, const float* keys, const float* values, long n, long d, float* out) {
  float* p = scratch<float>(0, n + 16);
  float scale = LOG2E / std::sqrt((float)d);
  for (long j = 0; j < n; j++) {
    __m512 sum = _mm512_setzero_ps();
    for (long i = 0; i < d; i += 16) {
      __mmask16 mask = first(d - i);
      sum = _mm512_fmadd_ps(load(q + i, mask), load(keys + j * d + i, mask), sum);
    }
    p[j] = _mm512_reduce_add_ps(sum) * scale;
  }
  float largest = *std::max_element(p, p + n);
  __m512 total = _mm512_setzero_ps();
  for (long j = 0; j < n; j += 16) {
    __mmask16 mask = first(n - j);
    __m512 e = exp2(_mm512_sub_ps(load(p + j, mask), set(largest)));
    store(p + j, e, mask);
    total = _mm512_mask_add_ps(total, mask, total, e);
  }
  __m512 divisor = set(_mm512_reduce_add_ps(total));
  for (long i = 0; i < d; i += 16) {
    __mmask16 mask = first(d - i);
    __m512 sum[2] = {};
    for (long j = 0; j < n; j++) {
      sum[j % 2] = _mm512_fmadd_ps(set(p[j]), load(values + j * d + i, mask), sum[j % 2]);
    }
    store(out + i, _mm512_div_ps(_mm512_add_ps(sum[0], sum[1]), divisor), mask);
  }
}

// Put the new keys and values (m, 3C) into their places, and let each token see what it may.
void attention(
    const float* qkv, float* keys, float* values, float* a, long m, long pos, long heads, long d,
    long room) {
  Part mine(heads);
  long c = heads * d;
  for (long h = mine.from; h < mine.to; h++) {
    float *k = keys + h * room * d, *v = values + h * room * d;
    for (long i = 0; i < m; i++) {
      memcpy(k + (pos + i) * d, qkv + (3 * i + 1) * c + h * d, d * sizeof(float));
      memcpy(v + (pos + i) * d, qkv + (3 * i + 2) * c + h * d, d * sizeof(float));
    }
    for (long i = 0; i < m; i++) {
      attend(qkv + 3 * i * c + h * d, k, v, pos + i + 1, d, a + i * c + h * d);
    }
  }
#pragma omp barrier
}

Map next(const void* const*& p, long n, long k) {
  Map map{p[0], (const bf16*)p[1], (const float*)p[2], n, k};
  p += 3;
  return map;
}

}  // namespace

// Round w (n, k) to int8 in panels, each group of 64 k's of a row by a scale of its own.
extern "C" void decode_pack(const float* w, int8_t* out, bf16* scales, long n, long k) {
#pragma omp parallel for schedule(static)
  for (long r = 0; r < (n + PANEL - 1) / PANEL * PANEL; r++) {
    for (long g = 0; g < k / GROUP; g++) {
      const float* row = w + std::min(r, n - 1) * k + g * GROUP;
      float largest = 0;
      for (long j = 0; j < GROUP; j++) largest = std::max(largest, std::fabs(row[j]));
      bf16* scale = scales + (r / PANEL * (k / GROUP) + g) * PANEL + r % PANEL;
      *scale = _mm256_extract_epi16(narrow(set(largest / 127)), 0);
      float unit = _mm512_cvtss_f32(widen(_mm256_set1_epi16(*scale)));
      int8_t* place = out + r / PANEL * PANEL * k + g * GROUP * PANEL + r % PANEL;
      for (long j = 0; j < GROUP; j++) {
        float steps = unit > 0 ? std::nearbyint(row[j] / unit) : 0;
        place[j * PANEL] = (int8_t)std::max(-127.f, std::min(127.f, steps));
      }
    }
  }
}

// Logits (m, ld) of m tokens that follow `pos` others.
//
// weights: of each layer ln_1's and ln_2's weight and bias, and of c_attn, c_proj, c_fc, c_proj the
// matrix, its scales and bias; then ln_f's weight and bias (none for post-norm), and the output
// matrix (v, C) with its scales. x: embeddings (m, C), overwritten. keys, values: (layers, heads, room, d).
// work: room for (m up to a multiple of 6) * 9 C float32. ld: v up to a multiple of 16.
extern "C" void decode_forward(
    const void* const* weights, float* x, float* keys, float* values, float* logits, float* work,
    long m, long pos, long room, long layers, long heads, long d, long v, long pre_norm) {
  long c = heads * d, ld = (v + PANEL - 1) / PANEL * PANEL;
  long some = (m + TILE - 1) / TILE * TILE;
  float *y = work, *qkv = y + some * c, *a = qkv + some * 3 * c, *h = a + some * c;
  float* in = pre_norm ? y : x;  // what a half block's first map reads
#pragma omp parallel
  {
    const void* const* p = weights;
    auto add = [=](long i, long r, __m512 sum, __mmask16 mask) {
      store(x + i * c + r, _mm512_add_ps(load(x + i * c + r, mask), sum), mask);
    };
    auto put = [](float* out, long width) {
      return [=](long i, long r, __m512 sum, __mmask16 mask) {
        store(out + i * width + r, sum, mask);
      };
    };
    for (long layer = 0; layer < layers; layer++) {
      const float* const* norms = (const float* const*)p;
      p += 4;
      Map c_attn = next(p, 3 * c, c), c_proj = next(p, c, c);
      Map fc = next(p, 4 * c, c), proj = next(p, c, 4 * c);
      float *k = keys + layer * room * c, *value = values + layer * room * c;
      if (pre_norm) layer_norm(x, norms[0], norms[1], y, m, c);
      apply(c_attn, in, m, qkv, 3 * c, put(qkv, 3 * c));
      attention(qkv, k, value, a, m, pos, heads, d, room);
      apply(c_proj, a, m, qkv, c, add);
      layer_norm(x, norms[pre_norm ? 2 : 0], norms[pre_norm ? 3 : 1], in, m, c);
      apply(fc, in, m, h, 4 * c, [=](long i, long r, __m512 sum, __mmask16 mask) {
        store(h + i * 4 * c + r, gelu(sum), mask);
      });
      apply(proj, h, m, qkv, c, add);
      if (!pre_norm) layer_norm(x, norms[2], norms[3], x, m, c);
    }
    if (pre_norm) layer_norm(x, (const float*)p[0], (const float*)p[1], y, m, c);
    p += 2;
    apply(next(p, v, c), in, m, logits, ld, put(logits, ld));
  }
}

#endif
