// LAMB: Adam's direction, scaled for each tensor to the norm of its parameters. The ratio is 1 where one of the norms
// is zero.
struct Lamb : Elementwise {
    static constexpr const char* kName = "lamb";
    static constexpr const char* kHypers[] = {"lr", "betas.0", "betas.1", "eps", "weight_decay", "eps_root"};
    enum { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kEpsRoot };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"exp_avg_sq", kUnsigned}};
    static constexpr bool kNorms = true;

    enum : unsigned { kWithDecay = 1 };
    static constexpr unsigned kVariants = 2;
    static unsigned variant(const double* h, std::uint64_t) { return h[kWeightDecay] != 0.0 ? kWithDecay : 0u; }
    template <class T>
    struct Constants {
        T decay, keep1, take1, keep2, take2, unbias1, unbias2, eps_root, eps, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        return {T(h[kWeightDecay]),
                T(h[kBeta1]),
                T(1.0 - h[kBeta1]),
                T(h[kBeta2]),
                T(1.0 - h[kBeta2]),
                T(1.0 / (1.0 - power(h[kBeta1], step))),
                T(1.0 / (1.0 - power(h[kBeta2], step))),
                T(h[kEpsRoot]),
                T(h[kEps]),
                T(h[kLr])};
    }

    // Advances the moments and returns the step before the learning rate.
    template <class T, unsigned V>
    static T advance(const Constants<T>& c, T p, T g, T& m, T& v) {
        m = c.keep1 * m + c.take1 * g;
        v = c.keep2 * v + c.take2 * (g * g);
        const T adam = m * c.unbias1 / (root(v * c.unbias2 + c.eps_root) + c.eps);
        return V & kWithDecay ? adam + c.decay * p : adam;
    }

    // First pass: the two values whose squares are summed over the tensor. The states stay as they are.
    template <class T, unsigned V>
    static void direction(const Constants<T>& c, T p, T g, T m, T v, T& a, T& b) {
        a = p;
        b = advance<T, V>(c, p, g, m, v);
    }
    template <class T>
    static void trust(Constants<T>& c, const double* h, double sum_a, double sum_b) {
        const double ratio = sum_a == 0.0 || sum_b == 0.0 ? 1.0 : std::sqrt(sum_a) / std::sqrt(sum_b);
        c.lr = T(h[kLr] * ratio);
    }

    // Second pass.
    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& v) {
        p = p - c.lr * advance<T, V>(c, p, g, m, v);
    }
};
