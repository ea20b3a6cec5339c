// What every update rule shares. Rule headers are the maths alone: they are included inside the anonymous namespace of
// the translation unit that is compiled once per instruction set, include nothing themselves, and know nothing of
// storage formats, clipping, threads or blocks (types.hpp has what a rule's table row is made of). Only + - * / sqrt,
// comparisons and selects occur, in the order of the NumPy reference (fusedstep/reference), so that both leave the same
// bytes. The formula of a rule and its source stand in the docstring of its class (fusedstep/optimizers).

// What a rule is unless it says otherwise.
struct Elementwise {
    static constexpr int kScalars = 0;                           // doubles kept per tensor from step to step
    static constexpr const char* const* kScalarNames = nullptr;  // their names, kScalars of them
    static constexpr unsigned kVariants = 1;                     // of the update, each compiled by itself
    static constexpr bool kNorms = false;                        // true: a first pass sums squares per tensor
    static constexpr bool kNormParam = true;                     // whether it reads the parameter beside the gradient
    static constexpr unsigned kNormStates = ~0u;                 // the states that it reads
    static constexpr int kSums = 2;                              // that it makes; 1: the second counts the elements
    static constexpr bool kWhole = false;                        // true: it sums over the model, without squares
    static constexpr bool kProduct = false;                      // true: the caller changes the direction in between
    static constexpr FactorStates kFactors{};                    // not empty: factors() says how they are advanced
    static constexpr bool kCautious = false;                     // true: decay() says how a weight decay enters
    static constexpr bool kBfloat16Step = false;                 // true: variant 0 has the steps of bfloat16_step.hpp
    static unsigned variant(const double*, std::uint64_t) { return 0u; }  // the one for these hyper-parameters
    static constexpr unsigned states(unsigned) { return ~0u; }            // those that a variant needs, a bit each
    // Whether a root and a division are most of a variant's work, and the rest is + - * / alone (divide_bound.hpp).
    static constexpr bool waits_for_divider(unsigned) { return false; }
};

// A rule whose steps can be cautious, with a weight decay of one of two kinds: an L2 penalty, zero in variants without
// it, and a factor of the parameter.
struct DecayInGradient : Elementwise {
    static constexpr bool kCautious = true;
    template <class T, class Constants>
    static Decay decay(const Constants& c, unsigned) {
        return {c.decay, 1};
    }
};
struct DecayOfParameter : Elementwise {
    static constexpr bool kCautious = true;
    template <class T, class Constants>
    static Decay decay(const Constants& c, unsigned) {
        return {0, c.shrink};
    }
};

inline float root(float x) { return std::sqrt(x); }
inline double root(double x) { return std::sqrt(x); }
// HUGE_VAL, which not every <cmath> has.
inline double infinity() {
    const std::uint64_t bits = 0x7FF0000000000000u;
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline double smallest_normal(double) { return 2.2250738585072014e-308; }
template <class T>
inline float smallest_normal(const T&) {  // of a float32 or a vector of them
    return 1.17549435e-38f;
}
inline float magnitude(float x) { return std::fabs(x); }
inline double magnitude(double x) { return std::fabs(x); }

// base**exponent by square and multiply. The C library's pow differs between processors in the last bit; this does not.
inline double power(double base, std::uint64_t exponent) {
    double result = 1.0;
    while (exponent != 0) {
        if (exponent & 1u) result *= base;
        base *= base;
        exponent >>= 1;
    }
    return result;
}

// base**exponent for base >= 0 and a real exponent: the integer part as above, the binary digits of the fraction by
// repeated square roots (IEEE 754 rounds sqrt correctly, so this too is the same everywhere). Relative error below
// 1e-14 for exponents up to 10, 1e-12 up to 1000.
inline double det_pow(double base, double exponent) {
    if (exponent < 0.0) return 1.0 / det_pow(base, -exponent);
    if (!(exponent < 1e15)) exponent = 1e15;  // 0, 1 or infinity by then; also keeps the conversion below in range
    const std::uint64_t whole = static_cast<std::uint64_t>(exponent);
    double fraction = exponent - static_cast<double>(whole);
    double result = power(base, whole);
    double root = base;
    while (fraction > 0.0) {
        root = std::sqrt(root);
        fraction *= 2.0;
        if (fraction >= 1.0) {
            result *= root;
            fraction -= 1.0;
        }
    }
    return result;
}

// The natural logarithm of a number in (0, 1], the same everywhere: square roots take it near 1, where twice the series
// of the inverse hyperbolic tangent of (x - 1) / (x + 1) has full precision after 12 terms. Relative error below 1e-14.
inline double det_log(double x) {
    double factor = 2.0;
    while (x < 0.75) {
        x = std::sqrt(x);
        factor *= 2.0;
    }
    const double y = (x - 1.0) / (x + 1.0), square = y * y;
    double sum = 0.0;
    for (int n = 23; n > 0; n -= 2) sum = sum * square + 1.0 / n;
    return factor * y * sum;
}

// The larger of two numbers; NaN if either is (std::fmax and most vector instructions would drop it).
template <class T>
inline T larger(T a, T b) {
    const T most = a >= b ? a : b;
    return a != a ? a : most;
}

// 1 for positive, -1 for negative numbers; zeros and NaN stay what they are. One select after the other, here and in
// the rules: a comparison that is only made sometimes would keep the loop from becoming vectors.
template <class T>
inline T sign(T x) {
    const T result = x > T{} ? T{} + 1 : x;
    return x < T{} ? T{} - 1 : result;
}
