// Adagrad, as torch.optim.Adagrad.
struct Adagrad : Elementwise {
    static constexpr const char* kName = "adagrad";
    static constexpr const char* kHypers[] = {"lr", "lr_decay", "weight_decay", "eps", "eps_root"};
    enum { kLr, kLrDecay, kWeightDecay, kEps, kEpsRoot };
    static constexpr State kStates[] = {
        {"sum", kExact}};  // it only grows, by ever smaller parts: rounding would stop it

    enum : unsigned { kWithDecay = 1 };
    static constexpr unsigned kVariants = 2;
    static unsigned variant(const double* h, std::uint64_t) { return h[kWeightDecay] != 0.0 ? kWithDecay : 0u; }
    static constexpr bool waits_for_divider(unsigned) { return true; }

    template <class T>
    struct Constants {
        T lr, decay, eps, eps_root;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        return {T(h[kLr] / (1.0 + static_cast<double>(step - 1) * h[kLrDecay])), T(h[kWeightDecay]), T(h[kEps]),
                T(h[kEpsRoot])};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& sum) {
        if constexpr (V & kWithDecay) g = g + c.decay * p;
        sum = sum + g * g;
        p = p - c.lr * (g / (root(sum + c.eps_root) + c.eps));
    }
};
