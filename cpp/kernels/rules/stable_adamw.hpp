// StableAdamW: AdamW whose learning rate falls, for each tensor, while gradients are larger than the second moment
// says.
struct StableAdamW : DecayOfParameter {
    static constexpr const char* kName = "stable_adamw";
    static constexpr const char* kHypers[] = {"lr", "betas.0", "betas.1", "eps", "weight_decay"};
    enum { kLr, kBeta1, kBeta2, kEps, kWeightDecay };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"exp_avg_sq", kUnsigned}};
    static constexpr bool kNorms = true;
    static constexpr bool kNormParam = false;
    static constexpr unsigned kNormStates = 2;
    static constexpr int kSums = 1;

    // The weight that makes an average that began with 0 one without bias.
    static double unbiased(double beta, std::uint64_t step) {
        return beta * (1.0 - power(beta, step - 1)) / (1.0 - power(beta, step));
    }

    template <class T>
    struct Constants {
        T shrink, keep1, take1, keep2, take2, eps, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        const double keep1 = unbiased(h[kBeta1], step), keep2 = unbiased(h[kBeta2], step);
        return {T(1.0), T(keep1), T(1.0 - keep1), T(keep2), T(1.0 - keep2), T(h[kEps]), T(h[kLr])};
    }

    // First pass: the gradient in units of the new second moment's root.
    template <class T, unsigned V>
    static void direction(const Constants<T>& c, T, T g, T, T v, T& a, T&) {
        a = g / larger(root(c.keep2 * v + c.take2 * (g * g)), c.eps);
    }
    template <class T>
    static void trust(Constants<T>& c, const double* h, double sum, double count) {
        const double square = count != 0.0 ? sum / count : 0.0;
        const double rate = h[kLr] / (square > 1.0 || square != square ? std::sqrt(square) : 1.0);
        c.shrink = T(1.0 - rate * h[kWeightDecay]);
        c.lr = T(rate);
    }

    // Second pass.
    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& v) {
        m = c.keep1 * m + c.take1 * g;
        v = c.keep2 * v + c.take2 * (g * g);
        p = p * c.shrink - c.lr * (m / (root(v) + c.eps));
    }
};
