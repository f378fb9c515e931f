// Newton-Schulz steps of Muon for many matrices, each on one thread; modules/training/optim.py has
// the plain twin and the coefficients' source.
#include "gemm.h"

namespace {

// out(i, j, sum, mask) of a (m, k) times n columns that pack(first, count, panel) brings, panel by
// panel; of a symmetric product only the upper triangle, by whole panels.
template <class Pack, class Out>
void multiply(const elem* a, long m, long n, long k, bool symmetric, Pack pack, Out out) {
  cell* panel = scratch<cell>(1, cells(k) * PANEL);
  for (long p = 0; p < n; p += PANEL) {
    pack(p, std::min(PANEL, n - p), panel);
    long rows = symmetric ? std::min(m, p + PANEL) : m;
    rows_by_panels(a, k, 0, rows, panel, 1, k, [=](long i, long j, vec c) {
      if (p + j < n) out(i, p + j, c, first(n - p - j));
    });
  }
}

void mirror(elem* x, long n) {
  for (long i = 0; i < n; i++)
    for (long j = i / PANEL * PANEL + PANEL; j < n; j++) x[j * n + i] = x[i * n + j];
}

// next (rows, cols) = a x + (b x x' + c (x x')^2) x, rows <= cols.
void iterate(const elem* x, elem* next, long rows, long cols, float a, float b, float c) {
  elem *gram = scratch<elem>(4, rows * rows), *mixed = scratch<elem>(5, rows * rows);
  auto pack_x = [=](long p, long n, cell* to) { pack_columns(x + p * cols, cols, cols, n, to); };
  multiply(x, rows, rows, cols, true, pack_x, [=](long i, long j, vec v, mask m) {
    store(gram + i * rows + j, v, m);
  });
  mirror(gram, rows);
  auto pack_gram = [=](long p, long n, cell* to) { pack_columns(gram + p * rows, rows, rows, n, to); };
  multiply(gram, rows, rows, rows, true, pack_gram, [=](long i, long j, vec v, mask m) {
    vec g = load(gram + i * rows + j, m);
    store(mixed + i * rows + j, c * v + b * g, m);
  });
  mirror(mixed, rows);
  auto pack_rows_of_x = [=](long p, long n, cell* to) { pack_rows(x + p, cols, rows, n, to); };
  multiply(mixed, rows, cols, rows, false, pack_rows_of_x, [=](long i, long j, vec v, mask m) {
    store(next + i * cols + j, a * load(x + i * cols + j, m) + v, m);
  });
}

void orthogonal_one(const float* update, float* out, long rows, long cols, long steps, const float* abc) {
  bool tall = rows > cols;
  long r = std::min(rows, cols), c = std::max(rows, cols);
  elem *x = scratch<elem>(2, r * c), *next = scratch<elem>(3, r * c);
  double squares = 0;
  for (long i = 0; i < rows * cols; i++) squares += (double)update[i] * update[i];
  float scale = 1.f / std::max((float)std::sqrt(squares), 1e-7f);  // spectral norm at most 1
  for (long i = 0; i < r; i++)
    for (long j = 0; j < c; j += LANES) {
      float v[LANES] = {};
      for (long l = j; l < std::min(c, j + LANES); l++) v[l - j] = update[tall ? l * cols + i : i * cols + l];
      store(x + i * c + j, load(v) * scale, first(c - j));
    }
  for (long s = 0; s < steps; s++, std::swap(x, next)) iterate(x, next, r, c, abc[0], abc[1], abc[2]);
  for (long i = 0; i < rows; i++)
    for (long j = 0; j < cols; j++)
      out[i * cols + j] = load(x + (tall ? j * c + i : i * c + j), 1)[0];
}

}  // namespace

extern "C" void orthogonal(long count, const float* const* updates, float* const* out, const long* rows,
                           const long* cols, long steps, const float* coefficients) {
#pragma omp parallel for schedule(dynamic)
  for (long i = 0; i < count; i++) {
    Multiplier here;
    orthogonal_one(updates[i], out[i], rows[i], cols[i], steps, coefficients);
  }
}
