// Adam and AdamW, as torch.optim.
template <bool kDecoupled>
struct AdamFamily : Elementwise {
    static constexpr bool kBfloat16Step = true;
    static constexpr bool kCautious = true;
    static constexpr const char* kName = kDecoupled ? "adamw" : "adam";
    static constexpr const char* kHypers[] = {"lr", "betas.0", "betas.1", "eps", "weight_decay", "amsgrad", "eps_root"};
    enum { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kAmsgrad, kEpsRoot };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"exp_avg_sq", kUnsigned}, {"max_exp_avg_sq", kUnsigned}};

    enum : unsigned { kWithAmsgrad = 1, kWithDecay = 2 };
    static constexpr unsigned kVariants =
        kDecoupled ? 2 : 4;  // decoupled decay is one multiplication, by 1 if there is none
    static unsigned variant(const double* h, std::uint64_t) {
        return (h[kAmsgrad] != 0.0 ? kWithAmsgrad : 0u) | (!kDecoupled && h[kWeightDecay] != 0.0 ? kWithDecay : 0u);
    }
    static constexpr unsigned states(unsigned variant) { return variant & kWithAmsgrad ? 7u : 3u; }

    template <class T>
    struct Constants {
        T decay, keep1, take1, keep2, take2, unbias2, eps_root, eps, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        const double correction1 = 1.0 - power(h[kBeta1], step);
        const double correction2 = 1.0 - power(h[kBeta2], step);
        return {T(kDecoupled ? 1.0 - h[kLr] * h[kWeightDecay] : h[kWeightDecay]),
                T(h[kBeta1]),
                T(1.0 - h[kBeta1]),
                T(h[kBeta2]),
                T(1.0 - h[kBeta2]),
                T(1.0 / correction2),
                T(h[kEpsRoot]),
                T(h[kEps]),
                T(h[kLr] / correction1)};
    }

    template <class T>
    static Decay decay(const Constants<T>& c, unsigned variant) {
        return {variant & kWithDecay ? c.decay : 0, kDecoupled ? c.decay : 1};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& v, [[maybe_unused]] T& v_max) {
        if constexpr (kDecoupled) p = p * c.decay;
        if constexpr (V & kWithDecay) g = g + c.decay * p;
        m = c.keep1 * m + c.take1 * g;
        v = c.keep2 * v + c.take2 * (g * g);
        T second = v;
        if constexpr (V & kWithAmsgrad) second = v_max = larger(v_max, v);
        p = p - c.lr * (m / (root(second * c.unbias2 + c.eps_root) + c.eps));
    }
};
using Adam = AdamFamily<false>;
using AdamW = AdamFamily<true>;
