// AdamW's update of float32 weights in one pass over each: clipping, moments, decay and weight.
// modules/training/adamw.py calls it; torch.optim.AdamW (fused) is its plain twin, formula by formula.
#include "vectors.h"

// Rows of an embedding, by what the step has for them.
enum Row : uint8_t {
  ASLEEP,   // no gradient, both moments 0: all that is left of the update is the decay
  AWAKE,    // no gradient
  GRADIENT  // a gradient
};

struct Weight {
  float *p, *m, *v;
  const float* g;
  const uint8_t* kinds;  // of its rows; null: all have a gradient
  long rows, width;
  float size, root;  // lr / (1 - b1^t), sqrt(1 - b2^t)
};

namespace {

struct Rule {
  float scale, decay, b1, b2, eps;  // scale: of the gradients (clipping); decay: 1 - lr w

  void shrink(float* p, long n) const {
    for (long j = 0; j < n; j += LANES) {
      mask some = first(n - j);
      store(p + j, load(p + j, some) * decay, some);
    }
  }

  void update(const Weight& w, long at, bool gradient) const {
    for (long j = at; j < at + w.width; j += LANES) {
      mask some = first(at + w.width - j);
      vec g = gradient ? load(w.g + j, some) * scale : set(0);
      vec m = load(w.m + j, some), v = load(w.v + j, some) * b2;
      m += (1.f - b1) * (g - m);
      v += (1.f - b2) * (g * g);
      vec p = load(w.p + j, some) * decay - w.size * (m / (root(v) / w.root + eps));
      store(w.m + j, m, some), store(w.v + j, v, some), store(w.p + j, p, some);
    }
  }
};

}  // namespace

extern "C" void adamw(const Weight* weights, long count, float scale, float decay, float b1, float b2,
                      float eps) {
  Rule rule{scale, decay, b1, b2, eps};
  for (const Weight* w = weights; w < weights + count; w++) {
    long some = std::max(1L, 16384 / w->width);
#pragma omp parallel for schedule(dynamic, some) if (w->rows * w->width > 65536)
    for (long i = 0; i < w->rows; i++) {
      uint8_t kind = w->kinds ? w->kinds[i] : GRADIENT;
      if (kind != ASLEEP) rule.update(*w, i * w->width, kind == GRADIENT);
      else if (decay != 1.f) rule.shrink(w->p + i * w->width, w->width);
    }
  }
}
