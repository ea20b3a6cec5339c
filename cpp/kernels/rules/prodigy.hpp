// Prodigy: Adam that estimates its step size from how far the parameters have come. The estimate d is one for all
// parameters: its two sums go over the whole model. A group whose rate is 0 has no part in them, and its states stay as
// they are.
struct Prodigy : Elementwise {
    static constexpr bool kCautious = true;
    static constexpr const char* kName = "prodigy";
    static constexpr const char* kHypers[] = {"lr",
                                              "betas.0",
                                              "betas.1",
                                              "eps",
                                              "weight_decay",
                                              "decoupled_weight_decay",
                                              "bias_correction",
                                              "safeguard_warmup",
                                              "d0",
                                              "d_coef",
                                              "growth_rate"};
    enum {
        kLr,
        kBeta1,
        kBeta2,
        kEps,
        kWeightDecay,
        kDecoupled,
        kBiasCorrection,
        kSafeguardWarmup,
        kD0,
        kCoefficient,
        kGrowthRate
    };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"exp_avg_sq", kUnsigned}, {"s", kExact}, {"p0", kExact}};
    static constexpr int kScalars = 3;
    static constexpr const char* kScalarNames[] = {"d", "d_max", "d_numerator"};
    enum { kEstimate, kLargest, kNumerator };
    static constexpr bool kNorms = true;
    static constexpr bool kWhole = true;
    static constexpr unsigned kNormStates = 12;

    template <class T>
    struct Constants {
        T penalty, shrink, keep1, take1, keep2, take2, keep3, take3, counted3, gain, eps, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double* scalars) {
        const double d = scalars[kEstimate], relative = d / h[kD0];
        double rate = d * h[kLr];
        if (h[kBiasCorrection] != 0.0)
            rate = rate * (std::sqrt(1.0 - power(h[kBeta2], step)) / (1.0 - power(h[kBeta1], step)));
        const bool decoupled = h[kDecoupled] != 0.0, moves = h[kLr] != 0.0;
        const double keep3 = std::sqrt(h[kBeta2]);
        return {T(decoupled ? 0.0 : h[kWeightDecay]),
                T(decoupled ? 1.0 - rate * h[kWeightDecay] : 1.0),
                T(moves ? h[kBeta1] : 1.0),
                T(moves ? d * (1.0 - h[kBeta1]) : 0.0),
                T(moves ? h[kBeta2] : 1.0),
                T(moves ? d * d * (1.0 - h[kBeta2]) : 0.0),
                T(moves ? keep3 : 1.0),
                T(moves ? relative * (h[kSafeguardWarmup] != 0.0 ? d : rate) : 0.0),
                T(moves ? keep3 : 0.0),
                T(relative * rate),
                T(d * h[kEps]),
                T(rate)};
    }

    // First pass: what is summed over the whole model, as it is. The states stay as they are.
    template <class T, unsigned V>
    static void direction(const Constants<T>& c, T p, T g, T, T, T s, T p0, T& a, T& b) {
        g = g + c.penalty * p;
        a = c.gain * g * (p0 - p);
        b = magnitude(c.counted3 * s + c.take3 * g);
    }
    template <class T>
    static void trust(Constants<T>& c, const double* h, std::uint64_t, double* scalars, double progress, double path) {
        if (path == 0.0) {  // no gradient yet: as in the authors' code, nothing moves
            c.shrink = 1;
            c.lr = 0;
            return;
        }
        const double numerator = std::sqrt(h[kBeta2]) * scalars[kNumerator] + progress;
        const double estimate = h[kCoefficient] * numerator / path;
        double d = scalars[kEstimate], largest = scalars[kLargest];
        if (d == h[kD0] && estimate > d) d = estimate;
        if (estimate > largest) largest = estimate;
        const double grown = d * h[kGrowthRate];
        d = grown < largest ? grown : largest;
        scalars[kEstimate] = d;
        scalars[kLargest] = largest;
        scalars[kNumerator] = numerator;
        c.eps = T(d * h[kEps]);
    }

    template <class T>
    static Decay decay(const Constants<T>& c, unsigned) {
        return {c.penalty, c.shrink};
    }

    // Second pass.
    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& v, T& s, T&) {
        g = g + c.penalty * p;
        m = c.keep1 * m + c.take1 * g;
        v = c.keep2 * v + c.take2 * (g * g);
        s = c.keep3 * s + c.take3 * g;
        p = p * c.shrink - c.lr * (m / (root(v) + c.eps));
    }
};
