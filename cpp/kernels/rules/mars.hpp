// MARS: a gradient corrected by its change since the step before, clipped by its norm, then AdamW or Lion. The gradient
// of the step before is zero at first, as in the authors' code.
struct MarsClipping : Elementwise {
    static constexpr bool kNorms = true;
    static constexpr bool kNormParam = false;
    static constexpr int kSums = 1;
    static constexpr bool kCautious = true;

    static double shrinkage(double clipping, double sum) {
        const double norm = std::sqrt(sum);
        return clipping != 0.0 && norm > 1.0 ? 1.0 / norm : 1.0;
    }
};

struct Mars : MarsClipping {
    static constexpr const char* kName = "mars";
    static constexpr const char* kHypers[] = {"lr", "betas.0", "betas.1", "eps", "weight_decay", "gamma", "clipping"};
    enum { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kGamma, kClipping };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"exp_avg_sq", kUnsigned}, {"last_grad", kSigned}};
    static constexpr unsigned kNormStates = 4;

    enum : unsigned { kCorrected = 1 };  // without a correction no gradient is kept
    static constexpr unsigned kVariants = 2;
    static unsigned variant(const double* h, std::uint64_t) { return h[kGamma] != 0.0 ? kCorrected : 0u; }
    static constexpr unsigned states(unsigned variant) { return variant & kCorrected ? 7u : 3u; }

    template <class T>
    struct Constants {
        T decay, correction, shrink, keep1, take1, keep2, take2, unbias2, eps, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        return {T(1.0 - h[kLr] * h[kWeightDecay]),
                T(h[kGamma] * (h[kBeta1] / (1.0 - h[kBeta1]))),
                T(1.0),
                T(h[kBeta1]),
                T(1.0 - h[kBeta1]),
                T(h[kBeta2]),
                T(1.0 - h[kBeta2]),
                T(1.0 / (1.0 - power(h[kBeta2], step))),
                T(h[kEps]),
                T(h[kLr] / (1.0 - power(h[kBeta1], step)))};
    }

    template <class T, unsigned V>
    static T corrected(const Constants<T>& c, const T& g, [[maybe_unused]] const T& last) {
        if constexpr (V & kCorrected) return g + c.correction * (g - last);
        return g;
    }

    // First pass: the corrected gradient, whose squares are summed.
    template <class T, unsigned V>
    static void direction(const Constants<T>& c, T, T g, T, T, T last, T& a, T&) {
        a = corrected<T, V>(c, g, last);
    }
    template <class T>
    static void trust(Constants<T>& c, const double* h, double sum, double) {
        c.shrink = T(shrinkage(h[kClipping], sum));
    }

    template <class T>
    static Decay decay(const Constants<T>& c, unsigned) {
        return {0, c.decay};
    }

    // Second pass.
    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& v, T& last) {
        const T change = c.shrink * corrected<T, V>(c, g, last);
        last = g;
        m = c.keep1 * m + c.take1 * change;
        v = c.keep2 * v + c.take2 * (change * change);
        p = p * c.decay - c.lr * (m / (root(v * c.unbias2) + c.eps));
    }
};

struct MarsLion : MarsClipping {
    static constexpr const char* kName = "mars_lion";
    static constexpr const char* kHypers[] = {"lr", "beta", "weight_decay", "gamma", "clipping"};
    enum { kLr, kBeta, kWeightDecay, kGamma, kClipping };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"last_grad", kSigned}};
    static constexpr unsigned kNormStates = 2;

    template <class T>
    struct Constants {
        T decay, correction, shrink, keep, take, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t, double*) {
        return {T(1.0 - h[kLr] * h[kWeightDecay]),
                T(h[kGamma] * (h[kBeta] / (1.0 - h[kBeta]))),
                T(1.0),
                T(h[kBeta]),
                T(1.0 - h[kBeta]),
                T(h[kLr])};
    }

    template <class T, unsigned V>
    static void direction(const Constants<T>& c, T, T g, T, T last, T& a, T&) {
        a = g + c.correction * (g - last);
    }
    template <class T>
    static void trust(Constants<T>& c, const double* h, double sum, double) {
        c.shrink = T(shrinkage(h[kClipping], sum));
    }

    template <class T>
    static Decay decay(const Constants<T>& c, unsigned) {
        return {0, c.decay};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& last) {
        const T change = c.shrink * (g + c.correction * (g - last));
        last = g;
        m = c.keep * m + c.take * change;
        p = p * c.decay - c.lr * sign(m);
    }
};
