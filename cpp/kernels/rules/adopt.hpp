// ADOPT: Adam that divides by the second moment of the step before, so that the two are independent. The first step
// only fills the second moment; as in the authors' code, a decoupled decay begins with the second.
struct Adopt : Elementwise {
    static constexpr bool kCautious = true;
    static constexpr const char* kName = "adopt";
    static constexpr const char* kHypers[] = {
        "lr", "betas.0", "betas.1", "eps", "weight_decay", "decoupled_weight_decay", "clipping"};
    enum { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kDecoupled, kClipping };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"exp_avg_sq", kExact}};

    enum : unsigned { kFirst = 1, kWithDecay = 2 };
    static constexpr unsigned kVariants = 4;
    static unsigned variant(const double* h, std::uint64_t step) {
        return (step == 1 ? kFirst : 0u) | (h[kWeightDecay] != 0.0 && h[kDecoupled] == 0.0 ? kWithDecay : 0u);
    }
    template <class T>
    struct Constants {
        T shrink, decay, keep1, take1, keep2, take2, eps, most, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        const double most = std::sqrt(std::sqrt(static_cast<double>(step - 1)));
        return {T(h[kDecoupled] != 0.0 && step > 1 ? 1.0 - h[kLr] * h[kWeightDecay] : 1.0),
                T(h[kWeightDecay]),
                T(h[kBeta1]),
                T(1.0 - h[kBeta1]),
                T(h[kBeta2]),
                T(1.0 - h[kBeta2]),
                T(h[kEps]),
                T(h[kClipping] != 0.0 ? most : infinity()),
                T(h[kLr])};
    }

    template <class T>
    static Decay decay(const Constants<T>& c, unsigned variant) {
        return {variant & kWithDecay ? c.decay : 0, c.shrink};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, [[maybe_unused]] T& m, T& v) {
        p = p * c.shrink;
        if constexpr (V & kWithDecay) g = g + c.decay * p;
        if constexpr (V & kFirst) {
            v = g * g;
        } else {
            T normed = g / larger(root(v), c.eps);
            normed = normed > c.most ? c.most : normed;
            normed = normed < -c.most ? -c.most : normed;
            m = c.keep1 * m + c.take1 * normed;
            p = p - c.lr * m;
            v = c.keep2 * v + c.take2 * (g * g);
        }
    }
};
